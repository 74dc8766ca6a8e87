"""What a user may name as an allocation: a file, a run directory, ``fp32``, or a shorthand such as ``w4a4``."""

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


def read_what(text: str, carried_out: bool = True) -> What:
    """Read an allocation from a file or a run directory (its chosen one); pass ``fp32`` and ``w4a4`` through.

    It is to be computed with as it was ``carried_out``, or anew from images.

    Raises:
        PmqError: it is none of these, or damaged.
    """
    if SHORTHAND.fullmatch(text):
        read_bits(text)  # bits that there are none of are told before any work
        return text
    if text == "fp32":
        return text
    path = Path(text)
    if text and is_dir(path):  # an empty text is not the current folder
        return Allocation.load(unchanged(path, read_manifest(path).files, CHOSEN) or path / CHOSEN, carried_out)
    if not is_file(path):
        raise PmqError(f"{quoted(text)} is no allocation file, no run directory, and not fp32 or a shorthand such as w4a4")
    return Allocation.load(path, carried_out)


def as_what(what: What | Path) -> What:
    """An allocation, ``fp32`` or a shorthand, as they are; of a file or a run the allocation."""
    return read_what(str(what)) if isinstance(what, Path | str) else what


def read_bits(text: str) -> tuple[BitWidth, BitWidth]:
    """Read bits of weights and activations from a shorthand such as ``w4a8``.

    Raises:
        PmqError: it is none, or there are no such bits.
    """
    match = SHORTHAND.fullmatch(text)
    if match is None:
        raise PmqError(f"{text!r} is not fp32 or a shorthand such as w4a4")
    return BitWidth(int(match[1])), BitWidth(int(match[2]))


def task_of(asked: str, *items: What) -> str:
    """The task that is asked for; where none is, that of the first allocation."""
    known = (item.task for item in items if isinstance(item, Allocation) and item.task is not None)
    return next(known, AUTO) if asked == AUTO else asked
