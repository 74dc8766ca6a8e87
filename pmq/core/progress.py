"""Progress with time left on standard error, for everything that takes over two seconds.

A terminal gets a bar; a file or pipe gets a plain line now and then. ``PMQ_PROGRESS=0`` silences both.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pmq.core.text import literal

Item = TypeVar("Item")
QUIET_SECONDS = 2.0
LINE_SECONDS = 10.0
_spelling: ContextVar[Callable[[str], str]] = ContextVar("spelling", default=str)


@contextmanager
def spelled(spell: Callable[[str], str]) -> Iterator[None]:
    """Pass every message through ``spell`` within this context, as the command line does to name flags for options."""
    token = _spelling.set(spell)
    try:
        yield
    finally:
        _spelling.reset(token)


def message(text: str) -> None:
    """Print a message on standard error, escaped and on one line; it is never silenced, because it may be a warning.

    If standard error cannot be written to, work continues without the message.
    """
    if sys.stderr is not None:
        with suppress(OSError):
            print(literal(_spelling.get()(text), getattr(sys.stderr, "encoding", None)), file=sys.stderr, flush=True)


def track(
    items: Iterable[Item], label: str, total: int | None = None, unit: str = "", size: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """Yield ``items``, showing how far they are after two seconds.

    Args:
        items: what is iterated over.
        label: what is done with the items.
        total: sum of the sizes of all items; without it ``items`` are counted first.
        unit: what is counted, such as ``images``, whose number per second is shown.
        size: how much of the total an item is.
    """
    if total is None:
        items = list(items)
        total = len(items)
    if not _enabled():
        yield from items
    elif _draws():
        yield from _with_bar(items, label, total, unit, size)
    else:
        yield from _with_lines(items, label, total, unit, size)


def _enabled() -> bool:
    return os.environ.get("PMQ_PROGRESS", "1") != "0"


def _draws() -> bool:
    """Whether standard error is a terminal that can draw a bar."""
    return sys.stderr is not None and sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal


def _with_bar(items: Iterable[Item], label: str, total: int, unit: str, size: Callable[[Item], int]) -> Iterator[Item]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    columns += (TextColumn("{task.fields[speed]}", markup=False),) if unit else ()  # type: ignore[assignment]
    bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task = bar.add_task(literal(label, sys.stderr.encoding), total=total, speed="")
    start, shown, done = time.monotonic(), False, 0
    try:
        for item in items:
            yield item
            done += size(item)
            now = time.monotonic()
            bar.update(task, completed=done, speed=_speed(done, now - start, unit))
            if not shown and now - start > QUIET_SECONDS:
                bar.start()
                shown = True
    finally:
        if shown:
            bar.stop()
            message(f"{label}: {time.monotonic() - start:.1f} s")


def _with_lines(items: Iterable[Item], label: str, total: int, unit: str, size: Callable[[Item], int]) -> Iterator[Item]:
    start = last = time.monotonic()
    printed = False
    done, counted = 0, f" {unit}" if unit else ""
    for item in items:
        yield item
        done += size(item)
        now = time.monotonic()
        if now - last > (LINE_SECONDS if printed else QUIET_SECONDS) and 0 < done < total:
            left = (now - start) / done * (total - done)
            speed = f", {_speed(done, now - start, unit)}" if unit else ""
            message(f"{label}: {done}/{total}{counted}, {now - start:.0f} s{speed}, {left:.0f} s left")
            printed, last = True, now
    if time.monotonic() - start > QUIET_SECONDS:
        message(f"{label}: {done}/{total}{counted}, {time.monotonic() - start:.1f} s")


def _speed(done: int, seconds: float, unit: str) -> str:
    return f"{done / seconds:.0f} {unit}/s" if unit and seconds > 0 else ""
