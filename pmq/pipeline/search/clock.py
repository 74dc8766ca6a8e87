"""The duration of each step of a search."""

from __future__ import annotations

import time

from pmq.pipeline.search.loop import Round


class Clock:
    """Stopwatch of the steps of a search, in seconds."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Record the time since the last call under ``name``."""
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now

    def done(self, rounds: list[Round]) -> dict[str, float]:
        """Return the seconds of each step, those of the rounds by activity, and the total."""
        parts = {
            "sensitivity": sum(r.measuring_s for r in rounds),
            "solving": sum(r.solving_s for r in rounds),
            "simulation": sum(r.simulating_s for r in rounds),
        }
        others = {name: seconds for name, seconds in self.seconds.items() if name != "rounds"}
        return {"calibration": others.pop("calibration")} | parts | others | {"total": time.perf_counter() - self._start}
