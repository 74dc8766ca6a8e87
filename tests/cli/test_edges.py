"""The edges of the command line: its arguments, the signals it gets, what the system refuses. No command does its work here."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import pmq.api
from pmq import cli
from pmq.cli import signals
from pmq.cli.signals import stop_message
from pmq.core.errors import Interrupted, PmqError, Stopped
from pmq.core.rundir import RunDir
from tests.conftest import PMQ

HOSTILE = "a[red]b\x1b[31m\n\u202e.json"
SHOWN = r"a[red]b\x1b[31m\n\u202e.json"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process; gives exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pmq", *arguments])
        before = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(SystemExit) as left:
                cli.main()
        finally:
            signal.signal(signal.SIGINT, before)
        captured = capfd.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, captured.out, captured.err

    return run


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let ``pmq export`` do something else."""

    def put(work: Callable[[], object]) -> None:
        def export(*_: object) -> tuple[object, str]:
            return work() or "allocation", "schema"

        monkeypatch.setattr(pmq.api, "export", export)

    return put


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["serach"], "No such command 'serach'"),
        (["--version"], "No such option: --version"),
        (["search", "--bugdet", "4bit"], "No such option: --bugdet"),
        (["search", "--seed", "x"], "'--seed': Input should be a valid integer"),
        (["search", "--seed", "-1"], "greater than or equal to 0"),
        (["search", "--seed", "9" * 30], "less than or equal to 4294967295"),
        (["search", "--threads", "9" * 30], "less than or equal to 1024"),
        (["search", "--budget"], "'--budget' requires an argument"),
        (["search", "--prune=yes"], "'--prune' does not take a value"),
        (["search", "a", HOSTILE], "unexpected extra argument(s) (a[red]b\\x1b[31m"),
        (["export", f"--{HOSTILE}"], "No such option: --a[red]b\\x1b[31m"),
        ([HOSTILE], "No such command"),
        (["export", HOSTILE], f"{SHOWN}' is no allocation file"),
        (["run"], "Missing argument"),
        (["report", "a", ""], "RUNS is empty"),
        (["evaluate", ""], "WHAT is empty"),
        (["evaluate", "--data", ""], "--data is empty"),
        (["evaluate", "--data="], "--data is empty"),
        (["search", "", "--seed", "3"], "MODEL is empty"),
        (["search", "--checkpoint", "", "--resume"], "--checkpoint is empty"),
        (["export", "--out", ""], "--out is empty"),
        (["prune", "--part", "a=1", "--part", ""], "--part is empty"),
        (["profile", "-b", ""], "--batch-size is empty"),
        (["run", "", "image.png"], "FILE is empty"),
        (["run", "file.onnx", "image.png", ""], "IMAGES is empty"),
        (["plot", "x" * 300], "x" * 100),
    ],
)
def test_wrong_arguments_are_told_in_one_line(line: list[str], told: str, call: Call) -> None:
    status, out, err = call(*line)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("pmq: ")
    assert told in err
    assert "\x1b" not in err


def test_help_is_given_without_a_command(call: Call) -> None:
    assert call("--help")[:2] == (0, call()[1])
    assert call()[0] == 2
    assert call("export", "--help")[0] == 0


@pytest.mark.parametrize("names", [[], [HOSTILE], ["from", "to"]])
def test_what_the_system_refuses_is_told_in_one_line(names: list[str], call: Call, exporting: Callable[..., None]) -> None:
    def work() -> None:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), *names[:1], *([None, *names[1:]] if names else []))

    exporting(work)
    status, out, err = call("export", "run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.endswith(": File name too long\n")
    assert all(name.replace(HOSTILE, SHOWN) in err for name in names)


@pytest.mark.parametrize("error", [RuntimeError, EOFError, ValueError, KeyboardInterrupt])
def test_other_exceptions_are_errors_of_ours_and_pass(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, exporting: Callable[..., None]
) -> None:
    def work() -> None:
        raise error

    exporting(work)
    monkeypatch.setattr(sys, "argv", ["pmq", "export", "run"])
    with pytest.raises(error):
        cli.main()


@pytest.mark.parametrize("json", [[], ["--json"]])
@pytest.mark.parametrize(("closed", "status", "why"), [(False, 2, "No space left on device"), (True, 141, "Broken pipe")])
def test_output_that_cannot_be_written(
    closed: bool,
    status: int,
    why: str,
    json: list[str],
    call: Call,
    exporting: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporting(lambda: None)
    reading, writing = os.pipe() if closed else (os.open("/dev/null", os.O_RDONLY), os.open("/dev/full", os.O_WRONLY))
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert call("export", "run", *json) == (status, "", f"pmq: cannot write to standard output: {why}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_nothing_is_told_of_output_where_there_is_none(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        status, _, err = call("export", "nowhere")
    assert (status, err.count("\n")) == (2, 1)
    assert "no allocation file" in err


def test_help_that_nobody_reads_ends_as_others_do() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run([*PMQ, "search", "--help"], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "pmq: cannot write to standard output: Broken pipe\n")


SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")]


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize(("number", "status", "told"), SIGNALS)
def test_signals_stop_and_say_what_is_kept(
    number: int, status: int, told: str, measured: bool, tmp_path: Path, call: Call, exporting: Callable[..., None]
) -> None:
    def work() -> None:
        run = RunDir(tmp_path / "run", {})
        if measured:
            run.record("x", {"error": 1.0})
        signal.raise_signal(number)

    before = signal.getsignal(number)
    exporting(work)
    kept = f"what was measured is kept in {str(tmp_path / 'run')!r}, go on with the same command and --resume"
    none = "no progress was saved that could be resumed"
    assert call("export", "run") == (status, "", f"pmq: {told}; {kept if measured else none}\n")
    assert signal.getsignal(number) is before


def test_what_an_earlier_process_measured_is_kept_too(tmp_path: Path, call: Call, exporting: Callable[..., None]) -> None:
    RunDir(tmp_path / "run", {}).record("x", {"error": 1.0})

    def work() -> None:
        RunDir(tmp_path / "run", {}, resume=True)
        signal.raise_signal(signal.SIGTERM)

    exporting(work)
    assert "--resume" in call("export", "run")[2]


@pytest.mark.parametrize(("number", "status", "told"), SIGNALS)
def test_a_second_signal_stops_at_once(number: int, status: int, told: str, call: Call, exporting: Callable[..., None]) -> None:
    left_to_the_system = []

    def work() -> None:
        with suppress(Interrupted):  # as a search does, to finish with the best so far
            signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(number)
        finally:
            left_to_the_system.append(signal.getsignal(number))

    exporting(work)
    found, _, err = call("export", "run")
    assert (found, err.count("\n")) == (status, 1)
    assert err.startswith(f"pmq: {told}")
    assert left_to_the_system == [signal.SIG_DFL]


def test_interrupts_do_not_disturb_the_message_of_a_stop(
    call: Call, exporting: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(stopped: Stopped) -> str:
        signal.raise_signal(signal.SIGINT)
        return stop_message(stopped)

    monkeypatch.setattr(signals, "stop_message", impatient)
    exporting(lambda: signal.raise_signal(signal.SIGTERM))
    assert call("export", "run") == (143, "", "pmq: terminated; no progress was saved that could be resumed\n")


def test_only_ctrl_c_may_be_answered_by_finishing(call: Call, exporting: Callable[..., None]) -> None:
    def work() -> None:
        with suppress(KeyboardInterrupt, Interrupted):
            signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    exporting(work)
    assert call("export", "run")[0] == 143


def test_nohup_is_respected(call: Call, exporting: Callable[..., None]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        exporting(lambda: signal.raise_signal(signal.SIGHUP))
        assert call("export", "run")[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_errors_are_one_line_whatever_they_hold(call: Call, exporting: Callable[..., None]) -> None:
    def work() -> None:
        raise PmqError(f"bad {HOSTILE}")

    exporting(work)
    assert call("export", "run") == (2, "", f"pmq: bad {SHOWN}\n")
