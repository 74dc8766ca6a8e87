"""The steps of the verbs in ``pmq.api``."""
