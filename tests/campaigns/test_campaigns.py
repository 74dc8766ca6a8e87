"""A short run of each campaign, and that campaigns would find what they look for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.campaigns.fuzz import ROOT, kind_of
from tests.campaigns.kinds import KINDS
from tests.campaigns.pool import Pool
from tests.campaigns.trees import mutate_tree, to_json
from tests.campaigns.verdict import disturbed, judge, snapshot

CASES = 150


@pytest.mark.skip(reason="reads of damaged YAML")
def test_damaged_files_are_read_rightly_or_refused(default_run: Path) -> None:
    line = [sys.executable, "-m", "tests.campaigns.fuzz", "--cases", str(CASES), "--run", str(default_run)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    counts = {row[:14].strip(): row[14:].split() for row in done.stdout.splitlines()[1:] if row}
    assert counts["all"][0] == str(CASES)
    assert set(counts) == {kind.name for kind in KINDS} | {"all"}
    assert int(counts["all"][1]) > CASES / 10  # else nothing would be tested but refusals
    assert int(counts["all"][2]) > CASES / 10


def _fall(case: int) -> int:
    """A worker that ends as cases may end."""
    if case == 1:
        os.abort()
    if case == 2:
        time.sleep(60)
    if case == 3:
        raise ValueError("x")
    return case


def _lost(case: int, word: str, left: str) -> str:
    return f"{case} {word.split(',')[0]}{' with a trace' if '_fall' in left else ''}"


def test_workers_that_crash_or_hang_are_told_and_replaced() -> None:
    found = list(Pool(_fall, _lost, 2, seconds=1.0).outcomes(range(6)))
    assert sorted(map(str, found)) == [
        "0",
        "1 crash with a trace",
        "2 hang with a trace",
        "3 the campaign itself failed with a trace",
        "4",
        "5",
    ]


@pytest.mark.parametrize(
    ("status", "out", "err", "word", "told"),
    [
        (0, '{"kl": 0.1, "agreement": 99.5, "size_bytes": 3}', "", "success", None),
        (2, "", "evaluating: 3/4\npmq: bad; do that\n", "refused", None),
        (2, "", "pmq: bad\npmq: worse\n", "failure", "2 lines"),
        (2, "", "", "failure", "0 lines"),
        (2, "{}", "pmq: bad\n", "refused", "printed"),
        (1, "", "Traceback (most recent call last):\nValueError: x\n", "failure", "ValueError"),
        (1, "", "pmq: bad\n", "failure", "exit status 1"),
        (0, "{}", "/a/b.py:3: RuntimeWarning: overflow\n", "failure", "overflow"),
        (0, '{"kl": NaN}', "", "failure", "no JSON"),
        (0, '{"kl": null}', "", "success", "no reason"),
        (0, '{"kl": null}', "no error can be told: nothing to compare\n", "success", None),
        (0, '{"results": [{"agreement": 101}]}', "", "success", "agreement is 101"),
        (0, '{"kl": -0.1}', "", "success", "kl is -0.1"),
        (0, '{"size_bytes": 0}', "", "success", "size_bytes is 0"),
        (0, '{"allocation": "none.json"}', "", "success", "does not exist"),
    ],
)
def test_verdicts(tmp_path: Path, status: int, out: str, err: str, word: str, told: str | None) -> None:
    found, fault = judge(status, out, err, tmp_path)
    assert found == word
    assert fault is None if told is None else told in (fault or "")


def test_disturbed_files_are_told(tmp_path: Path) -> None:
    for name in ("gone", "changed", "same", "out.json"):
        (tmp_path / name).write_text("{}")
    before = snapshot(tmp_path)
    (tmp_path / "gone").unlink()
    (tmp_path / "changed").write_text("[]")
    (tmp_path / "out.json").write_text('{"a": 1')
    (tmp_path / ".x.1.tmp").write_text("")
    (tmp_path / "stray").write_text("")
    (tmp_path / "out.csv").write_text("a,b\n")
    found = "\n".join(disturbed(tmp_path, before, ["out.*"]))
    assert [line.split()[0] for line in found.splitlines()] == ["gone", ".x.1.tmp", "changed", "out.json", "stray"]


def test_cases_are_reproducible_and_kinds_keep_their_shares() -> None:
    names = [kind_of(3, number).name for number in range(2 * sum(kind.share for kind in KINDS))]
    assert names == [kind_of(3, number).name for number in range(len(names))]
    assert all(names.count(kind.name) == 2 * kind.share for kind in KINDS)
    tree = {"a": [1, 2, {"b": "x"}], "c": None}
    texts = {to_json(mutate_tree(Random(number), tree)[0]) for number in range(50)}
    assert texts == {to_json(mutate_tree(Random(number), tree)[0]) for number in range(50)}
    assert len(texts) > 25
    assert tree == {"a": [1, 2, {"b": "x"}], "c": None}
