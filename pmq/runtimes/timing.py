"""Milliseconds of several things in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: rounds before those that count
WARMUP = 3
#: milliseconds that a clock and a processor need to be steady
ENOUGH = 3.0


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Time each call once a round: milliseconds ``(rounds,)`` by name.

    It is called before, unmeasured: by then the others have driven its weights out of the caches, where they are when a
    model runs again and again. What takes less than ``ENOUGH`` is repeated, before and while it is timed.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    repeats = dict.fromkeys(calls, 1)
    for i in range(WARMUP + rounds):
        for name, call in calls.items():
            _seconds(call, repeats[name])
            took = 1e3 * _seconds(call, repeats[name])
            if i >= WARMUP:
                found[name].append(took / repeats[name])
            elif took < ENOUGH:
                repeats[name] = math.ceil(repeats[name] * ENOUGH / took)
    return {name: np.array(times) for name, times in found.items()}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - start


def median_spread(times: NDArray[np.float64]) -> tuple[float, float]:
    """Median, and the distance between the quartiles as a share of it."""
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return float(middle), float((high - low) / middle)


def machine() -> dict[str, str]:
    """What distinguishes this machine from others as far as speed goes."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return {"processor": names[0] if names else platform.processor(), "architecture": platform.machine()}
