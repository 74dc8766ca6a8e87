"""Threads for operators on small tensors, which take less time than it takes to wake the other threads of an operator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from math import isfinite
from typing import TypeVar

import torch

from pmq.core.memory_limit import memory_limit

Item = TypeVar("Item")
Result = TypeVar("Result")
#: number of values below which an operator takes less time than it takes to wake a second thread
SMALL = 1 << 19
CPU = torch.device("cpu")
#: largest number of items at a time, as each takes memory
AT_ONCE = 4


class _Shared(threading.local):
    """Number of torch's threads that a thread of :func:`in_threads` shares with others; None in other threads."""

    n_threads: int | None = None


_shared = _Shared()


@contextmanager
def threads_of_operators(count: int) -> Iterator[None]:
    """Let torch compute each operator in ``count`` threads inside the context.

    >>> with threads_of_operators(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads_by_size(n_values: int) -> Iterator[None]:
    """Let torch compute each operator in one thread inside the context if its tensors of ``n_values`` are small, else in all.

    The number is the same inside and outside of :func:`in_threads`, so that results do not depend on where they are computed.
    """
    with threads_of_operators(1 if n_values < SMALL else _shared.n_threads or torch.get_num_threads()):
        yield


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device = CPU) -> list[Result]:
    """Return the results of ``function``, for several items at a time, which share torch's threads.

    After an error or a signal, items that have begun are finished and the others are not begun.
    Where memory is limited, the thread is the only one, or another ``device`` than the processor computes, there is one item at
    a time. The function has torch's default modes in other threads: it must enter ``torch.no_grad`` itself.

    >>> in_threads(lambda x: 2 * x, [1, 2, 3])
    [2, 4, 6]
    """
    n_threads = torch.get_num_threads()
    n_workers = 1 if isfinite(memory_limit()) or device.type != "cpu" else min(n_threads, len(items), AT_ONCE)
    if n_workers <= 1:
        return [function(item) for item in items]

    def start() -> None:
        _shared.n_threads = n_threads
        torch.set_num_threads(n_threads // n_workers)

    with threads_of_operators(n_threads // n_workers), ThreadPoolExecutor(n_workers, initializer=start) as pool:
        futures: list[Future[Result]] = []
        try:
            futures.extend(pool.submit(function, item) for item in items)
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _wait_for([future for future in futures if not future.cancelled()])
            raise


def _wait_for(futures: Sequence[Future[Result]]) -> None:
    """Wait until the futures are done, whatever signals arrive.

    A signal during :meth:`threading.Thread.join` lets Python take the thread for stopped, and a thread that is inside an
    operator while the interpreter exits aborts the process.
    """
    while not all(future.done() for future in futures):
        with suppress(BaseException):
            wait(futures)
