"""What this process has put by that a command which is stopped goes on from when it is given again."""

from __future__ import annotations

_told: dict[str, str] = {}


def keep(folder: object, what: str, how: str) -> None:
    """Remember that ``what`` is kept in ``folder``, and ``how`` to go on from there."""
    _told[str(folder)] = f"what was {what} is kept in {str(folder)!r}, {how}"


def told() -> str | None:
    """Say what is kept and how to go on, of the folder that came first; nothing where nothing is kept."""
    return next(iter(_told.values()), None)


def forget() -> None:
    """Begin anew, as another command does."""
    _told.clear()
