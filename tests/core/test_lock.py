from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pmq.core import PmqError
from pmq.core.lock import hold
from pmq.core.rundir import RunDir

HOLDER = """
import pathlib, sys
from pmq.core.lock import hold
lock = hold(pathlib.Path(sys.argv[1]))
print("held", flush=True)
input()
"""


def test_one_process_at_a_time_even_if_its_child_lives_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # The child speaks: what it was born with it has let go of by then.
    forking = HOLDER.replace("print", "import os, time; child = not os.fork(); child and print")
    forking = forking.replace("input()", "time.sleep(5) if child else input()")
    for code in (HOLDER, forking):
        rival = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert rival.stdout is not None
        assert rival.stdout.readline() == b"held\n"
        with pytest.raises(PmqError, match="another process works in"):
            RunDir(folder, {}, resume=True)
        rival.kill()  # which asks nobody, and leaves a forked process alone
        rival.wait()
        RunDir(folder, {}, resume=True)


def test_a_process_may_hold_a_folder_twice_and_lets_go_of_it(tmp_path: Path) -> None:
    first, second = hold(tmp_path), hold(tmp_path)
    assert first is second
    del first
    code = [sys.executable, "-c", HOLDER, str(tmp_path)]
    assert b"another process" in subprocess.run(code, input=b"\n", capture_output=True, check=False).stderr
    del second
    assert subprocess.run(code, input=b"\n", capture_output=True, check=False).returncode == 0


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    lock = hold(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(PmqError, match="no folder that can be written to"):
        (tmp_path / "file").write_text("")
        hold(tmp_path / "file" / "run")
    del lock
