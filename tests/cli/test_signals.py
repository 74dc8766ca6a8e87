"""Requests to stop, whatever the code that they meet makes of them."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import typer

from pmq.cli import main
from pmq.cli.signals import raise_on_stop
from pmq.core import PmqError
from pmq.core.errors import Interrupted, Stopped


def _stopped(number: int, error: Exception) -> None:
    """Ask this process to stop while a library runs that raises ``error`` in the place of whatever it catches."""
    with raise_on_stop():
        try:
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 1)  # somewhere to be when the signal is answered
        except BaseException:
            raise error from None


@pytest.mark.parametrize("error", [ImportError("initialization failed"), PmqError("needs a package"), RuntimeError("torn")])
def test_a_library_that_takes_a_stop_for_a_failure_of_its_own_does_not_hide_it(error: Exception) -> None:
    with pytest.raises(Stopped) as stopped:
        _stopped(signal.SIGTERM, error)
    assert stopped.value.number == signal.SIGTERM
    with pytest.raises(Interrupted):
        _stopped(signal.SIGINT, error)


def test_errors_of_commands_that_nobody_stopped_stay_what_they_are() -> None:
    with pytest.raises(PmqError, match="wrong input"), raise_on_stop():
        raise PmqError("wrong input")
    with pytest.raises(typer.Exit), raise_on_stop():
        raise typer.Exit(3)


def test_threads_wait_in_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pmq", "ls", "--help"])
    for before, after in (("", "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
        if not before:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        with pytest.raises(SystemExit):
            main()
        assert os.environ["OMP_WAIT_POLICY"] == after
