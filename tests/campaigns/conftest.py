"""What is imported for the worker processes of campaigns alone changes the process that imports it."""

collect_ignore = ["preload.py"]
