"""A model of time against workers: phases of recorded task times, a law, and a simulation of events that checks it."""

from __future__ import annotations

import heapq
import pickle
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pmq.evaluation import LocalExecutor
from pmq.evaluation.executor import Unit


@dataclass
class Phase:
    """Tasks that may be computed at the same time; the next phase begins when all are done.

    Attributes:
        serial_s: seconds between the end of the phase before and the first task, which only the driver works.
        task_s: seconds of each task, in order.
        result_bytes: serialized size of all results.
    """

    serial_s: float
    task_s: list[float] = field(default_factory=list)
    result_bytes: int = 0


@dataclass(frozen=True)
class Overhead:
    """What distribution costs, in seconds.

    Attributes:
        dispatch_s: time of the driver for each task, which limits how many tasks begin in a second.
        latency_s: time of a task on its worker beside the computation.
        start_s: time until workers have started and hold the state.
    """

    dispatch_s: float
    latency_s: float
    start_s: float


class RecordingExecutor(LocalExecutor):
    """Executes units in this process as if on one worker, and records the phases.

    Attributes:
        phases: the phases so far.
    """

    n_workers = 1

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[Phase] = []
        self._idle_since = time.perf_counter()

    def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Any]]:
        """Execute each unit when it is asked for, and record its duration."""
        phase = Phase(time.perf_counter() - self._idle_since)
        self.phases.append(phase)
        for unit in units:
            start = time.perf_counter()
            result = unit.function(self._state, *unit.arguments)
            phase.task_s.append(time.perf_counter() - start)
            phase.result_bytes += len(pickle.dumps(result))
            yield unit, result
        self._idle_since = time.perf_counter()

    def finished(self) -> list[Phase]:
        """Return all phases, and a last one without tasks for what the driver did after them."""
        return [*self.phases, Phase(time.perf_counter() - self._idle_since)]


def simulated_seconds(phases: Sequence[Phase], workers: int, overhead: Overhead) -> float:
    """Return the duration on a number of workers by a simulation of events.

    The driver gives a task to each worker that becomes free, one after the other; a phase ends when its last task does.
    """
    now = overhead.start_s
    for phase in phases:
        now += phase.serial_s
        free = [now] * min(workers, len(phase.task_s))  # when each worker is free
        driver = last = now
        for seconds in phase.task_s:
            driver = max(driver + overhead.dispatch_s, heapq.heappop(free))
            end = driver + overhead.latency_s + seconds
            heapq.heappush(free, end)
            last = max(last, end)
        now = last
    return now


def predicted_seconds(phases: Sequence[Phase], workers: int, overhead: Overhead) -> float:
    """Return the duration on a number of workers by the law.

    A phase takes at least the work of all tasks divided by the workers plus what the longest task adds to the last worker
    (Graham's bound for list scheduling, 1969), at least its longest task, and at least the driver's time for all tasks.
    """
    total = overhead.start_s
    for phase in phases:
        total += phase.serial_s
        if not phase.task_s:
            continue
        count, longest = len(phase.task_s), max(phase.task_s) + overhead.latency_s
        busy = min(workers, count)
        work = sum(phase.task_s) + count * overhead.latency_s
        tail = longest * (busy - 1) / (2 * busy)  # half of the bound, which the mean case reaches
        total += max(work / busy + (tail if workers < count else 0.0), longest, count * overhead.dispatch_s + longest)
    return total
