"""Registry of all targets; a new target has to be imported here."""

from __future__ import annotations

from pathlib import Path

from pmq.core.errors import PmqError
from pmq.core.files import quoted
from pmq.core.validation import shown
from pmq.runtimes import executorch as _executorch  # noqa: F401 (importing registers them)
from pmq.runtimes import litert as _litert  # noqa: F401
from pmq.runtimes import litert_static as _litert_static  # noqa: F401
from pmq.runtimes import onnxruntime as _onnxruntime  # noqa: F401
from pmq.runtimes import openvino as _openvino  # noqa: F401
from pmq.runtimes import qdq as _qdq  # noqa: F401
from pmq.runtimes.base import TARGETS, Target
from pmq.runtimes.labels import TARGET

__all__ = ["TARGETS", "target_of"]


def target_of(file: Path) -> Target:
    """Return the target that a file was written for.

    Raises:
        PmqError: the file names no target, or one that does not fit the suffix of its name.
    """
    known = ", ".join(sorted({TARGETS[name].suffix for name in TARGETS}))
    fitting = {name: TARGETS[name] for name in TARGETS if TARGETS[name].suffix == file.suffix}
    if not fitting:
        raise PmqError(f"{quoted(file)} was not written by pmq deploy, whose files end with {known}")
    reader = next(iter(fitting.values()))
    name = reader.metadata(file).get(TARGET)
    if name is None:
        raise PmqError(f"{quoted(file)} was not written by pmq deploy: it names no target")
    if name not in fitting:
        expected = f"files that end with {file.suffix} are for {', '.join(fitting)}"
        raise PmqError(f"{quoted(file)} names {shown(name)} as its target; {expected}")
    return fitting[name]
