"""All targets. A new one is imported here."""

from __future__ import annotations

from pathlib import Path

from pmq.core.errors import PmqError
from pmq.deploy import onnxruntime as _onnxruntime  # noqa: F401 (registers itself)
from pmq.deploy.base import TARGETS, Target

__all__ = ["TARGETS", "target_of"]


def target_of(file: Path) -> Target:
    """The target that runs a file.

    Raises:
        PmqError: none does.
    """
    found = next((TARGETS[name] for name in TARGETS if file.suffix == TARGETS[name].suffix), None)
    if found is None:
        known = ", ".join(TARGETS[name].suffix for name in TARGETS)
        raise PmqError(f"{str(file)!r} is no file of a target; those are {known}")
    return found
