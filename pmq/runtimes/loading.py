"""Time and memory that a runtime takes to load a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

Loaded = TypeVar("Loaded")
#: number of times a file is loaded
N_LOADS = 3
#: files of Linux: the memory of this process, and the one that resets its peak when 5 is written to it
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def load_costs(load: Callable[[], Loaded]) -> tuple[Loaded, float, int | None]:
    """Return what is loaded, the median milliseconds of loading, and the bytes by which memory rises at most during the first.

    Bytes are None on systems other than Linux. They count what a process in which the runtime is already loaded needs more.
    """
    before = _peak_since_now()
    times = []
    for i in range(N_LOADS):
        start = time.perf_counter()
        loaded = load()
        times.append(1000 * (time.perf_counter() - start))
        if i == 0:
            peak = None if before is None else max(0, _bytes_of("VmHWM") - before)
    return loaded, float(np.median(times)), peak


def _peak_since_now() -> int | None:
    """Reset the recorded peak of memory, and return the bytes in use; None where the system keeps no such record."""
    try:
        RESET.write_text("5")
        return _bytes_of("VmRSS")
    except (OSError, ValueError):
        return None


def _bytes_of(field: str) -> int:
    """Return a field of the process's status in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
