"""What is printed: literally, on streams of any encoding, and on devices that take nothing."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pmq.cli import output
from pmq.cli.hints import as_flags
from pmq.core import progress
from pmq.core.text import literal

HOSTILE = "b[red].json \x1b[31m\u202e\n:smile: \udcff"
SHOWN = r"b[red].json \x1b[31m\u202e\n:smile: \udcff"

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


class Stream(io.TextIOWrapper):
    """A stream that keeps what is written, as of a terminal where that is asked."""

    def __init__(self, encoding: str = "utf-8", tty: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding, write_through=True)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    @property
    def text(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def opened() -> None:
    output._failed.clear()


def test_lines_and_messages_are_literal(capsys: pytest.CaptureFixture[str]) -> None:
    output.say(HOSTILE, "next")
    progress.message(HOSTILE)
    assert capsys.readouterr() == (f"{SHOWN}\nnext\n", f"{SHOWN}\n")


def test_options_are_spelled_as_flags_in_messages_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of output hold names of the user's classes and files, which stay what they are."""
    with progress.spelled(as_flags):
        output.say("`n_calibration`")
        progress.message("lower `n_calibration`, or pass `out=other`")
    progress.message("lower `n_calibration`")
    out, err = capsys.readouterr()
    assert out == "`n_calibration`\n"
    assert err == "lower --calib-images, or pass --out other\nlower `n_calibration`\n"


def test_tables_are_literal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(HOSTILE, ["a[b]", "c\x1b[2J"], [[HOSTILE, 1.0], [("two", f"lines {HOSTILE}"), None]])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == SHOWN
    assert [cell.strip() for cell in lines[1].split("┃")[1:-1]] == ["a[b]", r"c\x1b[2J"]
    assert [line.split("│")[1].strip() for line in lines[3:6]] == [SHOWN, "two", f"lines {SHOWN}"]


@pytest.mark.parametrize(("encoding", "name"), [("ascii", r"M\xfcll"), ("latin-1", "Müll"), ("utf-8", "Müll")])
def test_streams_of_any_encoding(encoding: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, told = Stream(encoding), Stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", told)
    output.open_output()
    output.print_table("Müll", ["Müll"], [["Müll"]])
    output.say("Müll")
    output.print_json({"Müll": "\udcff"})
    progress.message("Müll")
    print("☃", file=sys.stdout)  # as libraries do
    lines = out.text.splitlines()
    assert lines[0] == lines[-3] == name
    assert {lines[2][0], lines[4][0]} == ({"┃", "│"} if encoding == "utf-8" else {"|"})
    assert len({len(line) for line in lines[1:6]}) == 1
    assert json.loads(lines[-2]) == {"Müll": "\udcff"}
    assert told.text == f"{name}\n"


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    infinite = float("inf")
    output.print_json({"a": infinite, "b": [{"c": -infinite}], "d": (np.float32("nan"), 1), "e": np.array([1.0, np.inf])})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [{"c": None}], "d": [None, 1], "e": [1.0, None]}


@pytest.mark.parametrize("columns", ["0", "1", "-5", "x"])
def test_any_width_of_a_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Stream(tty=True)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", columns)
    output.print_table("a title that is long", ["name"], [["x" * 200]])
    assert out.text.startswith("a title that is long\n")


@needs_full
@pytest.mark.parametrize(
    "first", [lambda: output.say("lost"), lambda: output.print_table("lost", ["lost"], [["lost"]]), lambda: output.print_json({})]
)
def test_a_full_device_is_told_once_and_work_goes_on(first: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        output.open_output()
        first()
        output.say("lost")
        found = output.close_output()
    assert found is not None
    assert found.strerror == "No space left on device"


@needs_full
@pytest.mark.parametrize("of", ["full", "pipe", "closed"])
def test_nothing_is_told_when_python_ends(of: str) -> None:
    code = "from pmq.cli import output as o; o.open_output(); o.say('x' * 100_000); o.close_output()"
    to = {"full": ">/dev/full", "pipe": "| true", "closed": ">&-"}[of]
    line = ["sh", "-c", f'"$0" -c "$1" {to}', sys.executable, code]
    done = subprocess.run(line, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_full
def test_messages_never_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        progress.message("lost")
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    monkeypatch.setattr(sys, "stderr", None)
    progress.message("lost")
    assert list(progress.track([1, 2], "lost")) == [1, 2]


@pytest.mark.parametrize(("term", "bar"), [("xterm", True), ("dumb", False), ("", True)])
def test_progress_names_what_it_does_literally(term: str, bar: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Stream(tty=True)
    monkeypatch.setattr(sys, "stderr", told)
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("PMQ_PROGRESS", "")
    assert list(progress.track(range(3), "a[red]b\x1b[2J")) == [0, 1, 2]
    assert r"a[red]b\x1b[2J" in told.text
    assert "\x1b[2J" not in told.text
    assert ("\x1b[" in told.text) == bar


@pytest.mark.parametrize("file", sorted(Path(output.__file__).parent.glob("*.py")), ids=lambda file: file.stem)
def test_commands_print_by_these_functions_alone(file: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def test_literal_keeps_what_can_be_shown() -> None:
    assert literal("Müll 画像 100 % [x]", "utf-8") == "Müll 画像 100 % [x]"
