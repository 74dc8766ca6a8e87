"""The texts that name an allocation: a file, a run directory, ``fp32``, or a shorthand such as ``w4a4``."""

from __future__ import annotations

import re
from pathlib import Path

from pmq.core.allocation import Allocation
from pmq.core.bits import BitWidth
from pmq.core.errors import PmqError
from pmq.core.files import is_dir, is_file, quoted
from pmq.core.manifest import read_manifest
from pmq.core.run_files import CHOSEN, unchanged
from pmq.core.task import AUTO

SHORTHAND = re.compile(r"w(\d+)a(\d+)")
What = Allocation | str


def read_what(text: str, with_tensors: bool = True) -> What:
    """Read an allocation from a file or a run directory (its chosen one); return ``fp32`` and ``w4a4`` as they are.

    ``with_tensors`` says whether its parameters and tensors will be used; otherwise it will be quantized again from images.

    Raises:
        PmqError: the text names none of these, or the file is damaged.
    """
    if SHORTHAND.fullmatch(text):
        read_bits(text)  # unknown bit-widths are reported before any work
        return text
    if text == "fp32":
        return text
    path = Path(text)
    if text and is_dir(path):  # an empty text does not mean the current folder
        return Allocation.load(unchanged(path, read_manifest(path).files, CHOSEN) or path / CHOSEN, with_tensors)
    if not is_file(path):
        raise PmqError(f"{quoted(text)} is no allocation file, no run directory, and not fp32 or a shorthand such as w4a4")
    return Allocation.load(path, with_tensors)


def as_what(what: What | Path) -> What:
    """Return the allocation of a file or a run; an allocation, ``fp32`` or a shorthand is returned as it is."""
    return read_what(str(what)) if isinstance(what, Path | str) else what


def read_bits(text: str) -> tuple[BitWidth, BitWidth]:
    """Read bits of weights and activations from a shorthand such as ``w4a8``.

    Raises:
        PmqError: the text is no shorthand, or has an unknown bit-width.
    """
    match = SHORTHAND.fullmatch(text)
    if match is None:
        raise PmqError(f"{text!r} is not fp32 or a shorthand such as w4a4")
    return BitWidth(int(match[1])), BitWidth(int(match[2]))


def task_of(task: str, *items: What) -> str:
    """Return ``task``, or if it is ``auto`` the task of the first allocation that states one."""
    known = (item.task for item in items if isinstance(item, Allocation) and item.task is not None)
    return next(known, AUTO) if task == AUTO else task
