"""Conversion of stop signals to exceptions, so that a command releases its resources before it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from pmq.core import checkpoints
from pmq.core.errors import Interrupted, Stopped

#: description of each stop signal in the final message of a command
NAMES = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
STOPPING = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@contextmanager
def raise_on_stop() -> Iterator[None]:
    """Raise :class:`Interrupted` on Ctrl-C and :class:`Stopped` on other stop signals while the context is active.

    A second signal also raises an exception and restores the default handlers, so that a third one ends the process without
    Python's help. Signals that the process was started to ignore, such as SIGHUP under nohup, stay ignored. A library may
    catch the exception and raise one of its own instead, so any error after a signal counts as a stop by that signal.
    """
    checkpoints.forget()
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            for stop_signal in before:
                signal.signal(stop_signal, signal.SIG_DFL)
        raise Interrupted(number) if number == signal.SIGINT else Stopped(number)

    before = {s: signal.getsignal(s) for s in STOPPING}
    before = {s: handler for s, handler in before.items() if s == signal.SIGINT or handler is not signal.SIG_IGN}
    try:
        for stop_signal in before:
            signal.signal(stop_signal, stop)
        yield
    except typer.Exit:
        raise
    except Exception as error:
        if received:  # a library replaced the exception by its own, as C extensions do during their import
            raise (Interrupted if received[-1] == signal.SIGINT else Stopped)(received[-1]) from error
        raise
    finally:
        for stop_signal, handler in before.items():
            signal.signal(stop_signal, handler)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C from now on: a stopped command only has to say so and to end, which another Ctrl-C would disturb."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def stop_message(stopped: Stopped) -> str:
    """Return the message for a stopped command: the signal, and how to resume if anything was saved."""
    name = NAMES[signal.Signals(stopped.number).name]
    return f"{name}; {checkpoints.resume_hint() or 'no progress was saved that could be resumed'}"
