"""Execution of units of work by actors of a Ray cluster, which may fail and are replaced."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from pmq.core.errors import PmqError
from pmq.core.progress import message
from pmq.evaluation.executor import Executor, Failed, Unit
from pmq.evaluation.ray_cluster import connect, import_ray, is_loss, put, reason_of, room
from pmq.evaluation.ray_options import RayOptions
from pmq.evaluation.ray_worker import Worker, installed_versions, pack
from pmq.models.float_products import multiplies_by_onednn

#: executions of a unit before it is given up
TRIES = 3
#: units that a worker has at a time: one that it computes, and one that it need not wait for
DEPTH = 2
#: seconds within which some worker must have started
START_SECONDS = 180.0
#: seconds between looks at the clock
_TICK = 0.5


@dataclass(eq=False)
class _Task:
    """A unit that waits or is executed; ``tries`` counts the failed executions, ``last`` is the worker of the last one."""

    unit: Unit
    tries: int = 0
    last: int = -1


@dataclass(eq=False)
class _Actor:
    """A worker of the cluster: its tasks in order, and since when it has computed the first of them.

    ``process`` is the number of its process on its node, once that is known.
    """

    number: int
    handle: Any
    ready: bool = False
    process: int | None = None
    tasks: deque[_Task] = field(default_factory=deque)
    since: float = 0.0


class RayExecutor(Executor):
    """Executes units on actors, each of which holds the state.

    A unit whose worker is lost, or that takes longer than the time limit, is executed again on another one; a unit that fails
    :data:`TRIES` times yields :class:`Failed`. Each unit yields one result, however often it was executed.

    Raises:
        PmqError: Ray is not installed, or the cluster cannot be reached or has no room.
    """

    def __init__(self, options: RayOptions) -> None:
        self._ray, self._options = import_ray(), options
        self._connected = connect(self._ray, options)
        self.n_workers = room(self._ray, options)
        self._actors: list[_Actor] = []
        self._sent: list[tuple[str, Any]] = []  # method and reference of everything that a worker must hold, in order
        self._pending: dict[Any, tuple[_Actor, _Task | None]] = {}  # by reference; without a task, a part of the state
        self._count, self._fruitless, self._waiting_since = 0, 0, time.monotonic()
        self._device = "cpu"

    def hold(self, state: Any) -> None:
        """Put the state into the object store once, and start the workers, which fetch it.

        Raises:
            PmqError: it does not fit, or it is on a GPU but workers have none.
        """
        self._device = getattr(state, "device_type", "cpu")
        if self._device == "cuda" and not self._options.gpus:
            raise PmqError("the model is on a GPU, but the workers have none; pass `ray_gpus=1`, or a share that workers divide")
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._actors.clear()
        self._pending.clear()
        self._sent = [("hold", self._put(state, "the model with its images"))]
        self._waiting_since = time.monotonic()
        for _ in range(self.n_workers):
            self._start()

    def share(self, function: Callable[[Any, Any], None], value: Any) -> None:
        """Call ``function(state, value)`` on every worker, before the units that follow."""
        self._sent.append(("share", self._put((function, value), "what workers share")))
        for actor in self._actors:
            self._send(actor, *self._sent[-1])

    def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Any]]:
        """Execute units, each as soon as a worker is free."""
        waiting, again = (_Task(unit) for unit in units), deque[_Task]()
        try:
            while True:
                self._fill(waiting, again)
                if not again and not any(actor.tasks for actor in self._actors):
                    return
                yield from self._collect(again)
        finally:  # whoever asks for no more results leaves results behind, which nobody reads
            for actor in self._actors:
                actor.tasks.clear()
            self._pending = {ref: pair for ref, pair in self._pending.items() if pair[1] is None}

    def close(self) -> None:
        """End the workers, and Ray itself if this executor has started it."""
        with suppress(Exception):
            for actor in self._actors:
                self._ray.kill(actor.handle)
        self._actors.clear()
        if self._connected:
            self._ray.shutdown()

    def _put(self, value: Any, what: str) -> Any:
        from ray import cloudpickle

        return put(self._ray, pack(value, cloudpickle), what)

    def _start(self) -> None:
        options = {"num_cpus": self._options.cpus, "num_gpus": self._options.gpus, "scheduling_strategy": "SPREAD"}
        handle = self._ray.remote(Worker).options(max_restarts=0, **options).remote()
        actor = _Actor(self._count, handle)
        self._count += 1
        self._actors.append(actor)
        begun = handle.begin.remote(installed_versions(), torch.get_num_threads(), self._device, multiplies_by_onednn())
        self._pending[begun] = (actor, None)
        for method, reference in self._sent:
            self._send(actor, method, reference)

    def _send(self, actor: _Actor, method: str, reference: Any) -> None:
        self._pending[getattr(actor.handle, method).remote(reference)] = (actor, None)

    def _fill(self, waiting: Iterator[_Task], again: deque[_Task]) -> None:
        """Give tasks to workers that have room for them; afterwards ``again`` is empty only if all tasks are given away."""
        while True:
            again.extend(islice(waiting, 0 if again else 1))
            free = sorted((a for a in self._actors if a.ready and len(a.tasks) < DEPTH), key=lambda a: len(a.tasks))
            chosen = next(((actor, task) for actor in free if (task := self._next(actor, waiting, again))), None)
            if chosen is None:
                return
            actor, task = chosen
            again.remove(task)
            if not actor.tasks:
                actor.since = time.monotonic()
            actor.tasks.append(task)
            self._pending[actor.handle.call.remote(task.unit.function, task.unit.arguments)] = (actor, task)

    def _next(self, actor: _Actor, waiting: Iterator[_Task], again: deque[_Task]) -> _Task | None:
        """Return the next task for a worker: one that has not just failed on it, unless there is no other worker."""
        again.extend(islice(waiting, 0 if any(task.last != actor.number for task in again) else 1))
        alone = not any(other.ready for other in self._actors if other is not actor)
        return next((task for task in again if alone or task.last != actor.number), None)

    def _collect(self, again: deque[_Task]) -> Iterator[tuple[Unit, Any]]:
        """Wait for something to end, and yield the results; failed tasks are added to ``again``."""
        done, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=_TICK) if self._pending else ([], [])
        for reference in done:
            if reference not in self._pending:  # of a worker that was lost a moment ago
                continue
            actor, task = self._pending.pop(reference)
            try:
                result = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                if is_loss(self._ray, error):
                    yield from self._lost(actor, reason_of(self._ray, error), again)
                elif task is None:
                    raise PmqError(f"a worker of Ray cannot start: {reason_of(self._ray, error)}") from None
                else:
                    actor.tasks.remove(task)
                    actor.since = time.monotonic()
                    yield from self._failed(actor, task, reason_of(self._ray, error), again)
                continue
            if task is None:
                actor.process = actor.process or result
                actor.ready = all(a is not actor for a, t in self._pending.values() if t is None)
                continue
            actor.tasks.remove(task)
            actor.since = time.monotonic()
            self._fruitless = 0
            yield task.unit, result
        yield from self._check_clock(again)

    def _check_clock(self, again: deque[_Task]) -> Iterator[tuple[Unit, Any]]:
        now, limit = time.monotonic(), self._options.task_seconds
        for actor in list(self._actors):
            if actor.tasks and now - actor.since > limit:
                self._ray.kill(actor.handle)
                yield from self._lost(actor, f"its task took longer than {limit:g} s (`ray_timeout`)", again)
        if any(actor.ready for actor in self._actors):
            self._waiting_since = now
        elif now - self._waiting_since > START_SECONDS:
            raise PmqError(f"no worker of Ray has started within {START_SECONDS:g} s; see `ray status`, or ask for fewer workers")

    def _lost(self, actor: _Actor, reason: str, again: deque[_Task]) -> Iterator[tuple[Unit, Any]]:
        """Replace a worker. The first of its tasks has failed; the others were not begun."""
        self._actors.remove(actor)
        self._pending = {ref: pair for ref, pair in self._pending.items() if pair[0] is not actor}
        self._fruitless += 1
        if self._fruitless > TRIES * self.n_workers:
            raise PmqError(f"{self._fruitless} workers of Ray were lost without a result between them, the last one: {reason}")
        message(f"worker {actor.number} of Ray is replaced: {reason}")
        self._start()
        if actor.tasks:
            running = actor.tasks.popleft()
            again.extend(actor.tasks)
            yield from self._failed(actor, running, reason, again)

    def _failed(self, actor: _Actor, task: _Task, reason: str, again: deque[_Task]) -> Iterator[tuple[Unit, Any]]:
        """Execute a task again elsewhere, or give it up."""
        task.tries, task.last = task.tries + 1, actor.number
        if task.tries >= TRIES:
            yield task.unit, Failed(reason)
        else:
            message(f"{task.unit.name}: failed on worker {actor.number} of Ray ({reason}); it is repeated")
            again.append(task)
