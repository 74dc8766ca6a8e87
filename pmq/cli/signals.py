"""Signals that ask a command to stop become exceptions, so that what it holds is put away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from pmq.core import checkpoints
from pmq.core.errors import Interrupted, Stopped

#: what a stopped command says of itself
NAMES = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
STOPPING = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@contextmanager
def answered() -> Iterator[None]:
    """Raise :class:`Interrupted` at Ctrl-C and :class:`Stopped` at other requests to stop, as long as this lasts.

    A second one is raised wherever the first has led to; from then on the system answers, which needs no Python to do so.
    What the process was told to ignore, as nohup tells it of SIGHUP, it ignores. A library may catch the exception and raise
    one of its own in its place; a command that ends in any error after a signal was stopped by the signal.
    """
    checkpoints.forget()
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        came.append(number)
        if len(came) > 1:
            for each in before:
                signal.signal(each, signal.SIG_DFL)
        raise Interrupted(number) if number == signal.SIGINT else Stopped(number)

    before = {s: signal.getsignal(s) for s in STOPPING}
    before = {s: handler for s, handler in before.items() if s == signal.SIGINT or handler is not signal.SIG_IGN}
    try:
        for each in before:
            signal.signal(each, stop)
        yield
    except typer.Exit:
        raise
    except Exception as error:
        if came:  # a library took the exception for a failure of its own, as C extensions do that are being imported
            raise (Interrupted if came[-1] == signal.SIGINT else Stopped)(came[-1]) from error
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def told(stopped: Stopped) -> str:
    """Say what stopped a command, and whether something was kept."""
    name = NAMES[signal.Signals(stopped.number).name]
    return f"{name}; {checkpoints.told() or 'nothing was kept that could be gone on from'}"
