"""Paths that users name."""

from __future__ import annotations

from pathlib import Path

from pmq.core.errors import PmqError


def named_path(name: Path | str, what: str) -> Path:
    """Make a path of what a user names; of an empty name ``pathlib`` would make the current folder.

    Raises:
        PmqError: the name is empty.
    """
    if name == "":
        raise PmqError(f"the name of the {what} is empty; give one, or None for the default")
    return Path(name)
