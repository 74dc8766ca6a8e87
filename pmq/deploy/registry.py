"""All targets. A new one is imported here."""

from __future__ import annotations

from pathlib import Path

from pmq.core.errors import PmqError
from pmq.deploy import executorch as _executorch  # noqa: F401 (they register themselves)
from pmq.deploy import litert as _litert  # noqa: F401
from pmq.deploy import onnxruntime as _onnxruntime  # noqa: F401
from pmq.deploy import openvino as _openvino  # noqa: F401
from pmq.deploy.base import TARGETS, Target
from pmq.deploy.labels import TARGET

__all__ = ["TARGETS", "target_of"]


def target_of(file: Path) -> Target:
    """The target that a file was written for.

    Raises:
        PmqError: it was written for none.
    """
    reader = next((TARGETS[name] for name in TARGETS if TARGETS[name].suffix == file.suffix), None)
    written_for = reader.metadata(file).get(TARGET, "") if reader else ""
    if written_for in TARGETS:
        return TARGETS[written_for]
    known = ", ".join(sorted({TARGETS[name].suffix for name in TARGETS}))
    raise PmqError(f"{str(file)!r} was not written by pmq deploy, whose files end with {known}")
