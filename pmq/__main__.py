"""``python -m pmq``."""

from pmq.cli import main

main()
