"""Worker processes that may crash or hang: forked with everything imported, watched, replaced."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

#: cases after which a worker is replaced, lest what it keeps grows
CASES_EACH = 500


@dataclass(frozen=True)
class _Fault:
    """An exception that a case should not have raised."""

    text: str


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    trace: Path
    case: int | None = None
    began: float = 0.0
    queued: float = 0.0
    done: int = 0


@dataclass
class Pool:
    """Runs cases by their numbers.

    Attributes:
        run: does a case and gives what came of it; a function of a module.
        lost: what to give for a case whose worker hung or crashed, of its number, a word, and what it left.
        size: workers.
        seconds: after which a case hangs, those not counted in which other processes had the processor.
        preload: module that workers have imported already.
    """

    run: Callable[[int], Any]
    lost: Callable[[int, str, str], Any]
    size: int = 2
    seconds: float = 20.0
    preload: str | None = None
    _workers: list[_Worker] = field(default_factory=list)

    def outcomes(self, cases: Iterable[int]) -> Iterator[Any]:
        """Run all cases and give what came of them, in the order of their ends."""
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([self.preload] if self.preload else [])
        waiting = iter(cases)
        with tempfile.TemporaryDirectory(prefix="pmq-pool-") as folder:
            try:
                self._workers = [self._start(context, Path(folder), i) for i in range(self.size)]
                while True:
                    for i, worker in enumerate(self._workers):
                        if worker.case is None:
                            if worker.done >= CASES_EACH:
                                self._stop(worker)
                                worker = self._workers[i] = self._start(context, Path(folder), i)
                            self._give(worker, waiting)
                    busy = [w for w in self._workers if w.case is not None]
                    if not busy:
                        return
                    wait([w.pipe for w in busy] + [w.process.sentinel for w in busy], timeout=0.5)
                    for i, worker in enumerate(self._workers):
                        yield from self._look(worker)
                        if not worker.process.is_alive():
                            self._workers[i] = self._start(context, Path(folder), i)
            finally:
                for worker in self._workers:
                    self._stop(worker)

    def _start(self, context: Any, folder: Path, number: int) -> _Worker:
        here, there = context.Pipe()
        trace = folder / f"trace-{number}"
        process = context.Process(target=_work, args=(there, self.run, str(trace)), daemon=True)
        process.start()
        there.close()
        here.recv()  # it is ready: what it imports is no part of a case
        return _Worker(process, here, trace)

    def _give(self, worker: _Worker, waiting: Iterator[int]) -> None:
        case = next(waiting, None)
        if case is not None:
            worker.case, worker.began, worker.queued = case, time.monotonic(), _queued(worker.process.pid)
            worker.pipe.send(case)

    def _look(self, worker: _Worker) -> Iterator[Any]:
        """What has come of a worker's case, if anything."""
        if worker.case is None:
            return
        case, word = worker.case, ""
        if worker.pipe.poll():
            try:
                found = worker.pipe.recv()
            except EOFError:
                worker.process.join()
                word = f"crash, exit status {worker.process.exitcode}"
            else:
                worker.case, worker.done = None, worker.done + 1
                yield self.lost(case, "the campaign itself failed", found.text) if isinstance(found, _Fault) else found
                return
        elif time.monotonic() - worker.began - _queued(worker.process.pid) + worker.queued > self.seconds:
            word = f"hang, more than {self.seconds:.0f} s"
            os.kill(worker.process.pid, signal.SIGUSR1)  # it writes down where it is
            time.sleep(0.3)
        if word:
            worker.case = None
            self._stop(worker)
            yield self.lost(case, word, worker.trace.read_text()[:3000] if worker.trace.is_file() else "")

    def _stop(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def _queued(pid: int) -> float:
    """Seconds that a process would have run but for others; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _work(pipe: Connection, run: Callable[[int], Any], trace: str) -> None:
    """Do cases until the parent is gone."""
    with open(trace, "w") as file:  # noqa: PTH123
        faulthandler.enable(file)
        faulthandler.register(signal.SIGUSR1, file)
        try:
            pipe.send("ready")
            while True:
                case = pipe.recv()
                try:
                    found = run(case)
                except Exception:
                    found = _Fault(traceback.format_exc())
                pipe.send(found)
        except (EOFError, ConnectionError):
            return
