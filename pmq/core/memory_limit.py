"""The memory that this process holds, and the limit above which what can be kept on disk is kept there."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pmq.core.errors import PmqError
from pmq.core.progress import message

_STATM, _STATUS, _FORGET = (Path("/proc/self") / name for name in ("statm", "status", "clear_refs"))
_UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9}
_limit: list[float] = [float("inf")]


def peak_bytes() -> int:
    """Return the most memory that this process has held so far, or since :func:`step_peak_bytes` was called."""
    if not _STATUS.exists():  # where there is a file, the number below may be that of the process that started this one
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def resident_bytes() -> int:
    """Return the memory that this process holds; where the system does not tell, the most that it has held so far."""
    if not _STATM.exists():
        return peak_bytes()
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def step_peak_bytes() -> int:
    """Return the most memory that this process has held since the last call, or so far where the system does not tell."""
    peak = peak_bytes()
    if _FORGET.exists():
        with suppress(OSError):  # a container may forbid it
            _FORGET.write_text("5")
    return peak


def parse_bytes(text: str) -> float:
    """Return a number of bytes such as ``8GB`` or ``500MB``, in decimal units.

    Raises:
        PmqError: the text is not a positive number with a unit.

    >>> parse_bytes("1.5GB")
    1500000000.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)([kmg]b)", "".join(text.lower().split()))
    if match is None or float(match[1]) == 0:
        raise PmqError(f"memory {text!r} is not understood; write a positive number with a unit, such as 8GB or 500MB")
    return float(match[1]) * _UNITS[match[2]]


def memory_limit() -> float:
    """Return the limit in bytes; infinity without one."""
    return _limit[0]


@contextmanager
def limited_memory(limit: float | None) -> Iterator[None]:
    """Limit the memory of this process to a number of bytes, as far as it can be limited, for as long as the context lasts."""
    before, _limit[0] = _limit[0], _limit[0] if limit is None else limit
    try:
        yield
    finally:
        _limit[0] = before


def report_excess(limit: float | None) -> None:
    """Say so if this process has held more than ``limit`` bytes."""
    peak = peak_bytes()
    if limit is not None and peak > limit:
        held, asked = (f"{size / 1e9:.2f} GB" for size in (peak, limit))
        message(f"{held} of memory were held, more than the {asked} asked for; a smaller batch needs less")
