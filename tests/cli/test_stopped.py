"""Searches that are killed or interrupted, and what is kept of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pmq.core import Allocation
from tests.conftest import FORKER, SHALLOW, pmq

QUICK = ["--calib-images", "6", "--held-out", "12"]
#: seconds after which a run that does not reach what a test waits for has failed
PATIENCE = 180


def wait_for(reached: Callable[[], bool]) -> None:
    """Return as soon as a run has reached something."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, "the run never got there"
        time.sleep(0.002)


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    command = ["search", *QUICK, "--space", "w4a8", "--budget", "6bit", "--recipe", "fast", "--out"]
    assert pmq(*command, str(tmp_path / "whole"), command=SHALLOW).returncode == 0
    journal = tmp_path / "killed" / "journal.jsonl"
    # Killed twice: while measuring, and while simulating.
    whole = (tmp_path / "whole" / "journal.jsonl").read_text().splitlines()
    measured = sum('"sensitivity/' in line for line in whole)
    for lines in (measured // 3, measured + 3):
        process = FORKER.start(SHALLOW[-1], [*command, str(tmp_path / "killed"), "--resume"], None)
        wait_for(lambda lines=lines: journal.exists() and journal.read_bytes().count(b"\n") >= lines)  # type: ignore[misc]
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait().returncode == -signal.SIGKILL
    before = journal.read_bytes()
    done = pmq(*command, str(tmp_path / "killed"), "--resume", command=SHALLOW)
    assert done.returncode == 0, done.stderr
    for name in ("sensitivity.csv", "front.csv", "points.csv", "allocations/chosen.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    kept = before[: before.rfind(b"\n") + 1]
    assert journal.read_bytes().startswith(kept)
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == len(whole)
    refused = pmq(*command, str(tmp_path / "killed"))
    assert refused.returncode == 2
    assert "--resume" in refused.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_runs_say_how_to_go_on(number: int, status: int, tmp_path: Path) -> None:
    cheap = ["--budget", "6bit", "--space", "w4a8", "--recipe", "minmax", "--metric", "sqnr"]
    command = [sys.executable, "-m", "pmq", "search", *QUICK, *cheap, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "run" / "journal.jsonl"
    wait_for(lambda: journal.exists() and b"\n" in journal.read_bytes())
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"what was measured is kept in '{tmp_path}/run'" in told.splitlines()[-1]
    assert "--resume" in told.splitlines()[-1]
    assert "Traceback" not in told


def test_interrupted_later_runs_finish_with_the_best_so_far(tmp_path: Path) -> None:
    command = ["search", *QUICK, "--space", "default", "--rounds", "3", "--out", str(tmp_path / "run")]
    process = FORKER.start(SHALLOW[-1], command, None)
    journal = tmp_path / "run" / "journal.jsonl"
    wait_for(lambda: journal.exists() and '"sensitivity/round1/' in journal.read_text())
    os.kill(process.pid, signal.SIGINT)
    done = process.wait()
    told = done.stderr
    assert done.returncode == 0, told
    assert "finishing with the best so far" in told
    assert Allocation.load(tmp_path / "run" / "allocations" / "chosen.json").tensors is not None
    assert len(pd.read_csv(tmp_path / "run" / "rounds.csv")) == 1
