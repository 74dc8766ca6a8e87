"""The checkpoints of this process, so that a stopped command can report how to resume."""

from __future__ import annotations

from pathlib import Path

from pmq.core.files import has_content

_hints: dict[Path, str] = {}


def keep(file: Path, done: str, hint: str) -> None:
    """Record that ``file`` holds the work ``done`` so far once it has content, with a hint how to resume.

    A signal may arrive at any time, so writers call this before they write: whether something was kept is read from the file
    when the command has stopped.
    """
    _hints[file] = f"what was {done} is kept in {str(file.parent)!r}, {hint}"


def resume_hint() -> str | None:
    """Return what is stored and how to resume, of the first recorded file with content; None where nothing is stored."""
    return next((hint for file, hint in _hints.items() if has_content(file)), None)


def forget() -> None:
    """Forget all checkpoints, at the start of another command."""
    _hints.clear()
