"""Interleaved timing of several calls, so that a slowdown of the machine affects all of them equally."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: number of warm-up rounds before the measured ones
WARMUP = 3
#: minimum duration of a measurement in milliseconds, below which clock and processor are not steady
ENOUGH = 3.0


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Time each call once per round; return milliseconds ``(rounds,)`` by name.

    Before each measurement the call runs once unmeasured: the other calls have evicted its weights from the caches, where they
    are when a model runs repeatedly. Calls shorter than ``ENOUGH`` are repeated, both unmeasured and measured.
    """
    times_by_name: dict[str, list[float]] = {name: [] for name in calls}
    repeats = dict.fromkeys(calls, 1)
    for i in range(WARMUP + rounds):
        for name, call in calls.items():
            _seconds(call, repeats[name])
            took = 1e3 * _seconds(call, repeats[name])
            if i >= WARMUP:
                times_by_name[name].append(took / repeats[name])
            elif took < ENOUGH:
                repeats[name] = math.ceil(repeats[name] * ENOUGH / took)
    return {name: np.array(times) for name, times in times_by_name.items()}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - start


def median_spread(times: NDArray[np.float64]) -> tuple[float, float]:
    """Return the median, and the interquartile range relative to it."""
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return float(middle), float((high - low) / middle)


def machine() -> dict[str, str]:
    """Return the properties of this machine that affect speed: processor and architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return {"processor": names[0] if names else platform.processor(), "architecture": platform.machine()}
