"""The steps that verbs are made of."""
