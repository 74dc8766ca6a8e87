"""The checkpoints that this process has written, so that a stopped command can report how to resume."""

from __future__ import annotations

_hints: dict[str, str] = {}


def keep(folder: object, done: str, hint: str) -> None:
    """Record that the work ``done`` so far is stored in ``folder``, with a hint how to resume."""
    _hints[str(folder)] = f"what was {done} is kept in {str(folder)!r}, {hint}"


def resume_hint() -> str | None:
    """Return what is stored and how to resume, of the folder recorded first; None where nothing is stored."""
    return next(iter(_hints.values()), None)


def forget() -> None:
    """Forget all checkpoints, at the start of another command."""
    _hints.clear()
