"""Metrics compared on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.conftest import SHALLOW, pmq
from tests.shallow import few_bits


def test_rank_prints_its_figures(tmp_path: Path) -> None:
    images = ["--probe-images", "16", "--held-out", "32", "--truth-images", "32"]
    line = ["rank", "--metric", "fisher_shrunk,sqnr", "--budget", "4bit", "--count", "10", "--recipe", "mse", *images]
    space = tmp_path / "few.yaml"
    space.write_text(yaml.safe_dump(few_bits(2, 4, 6).model_dump(mode="json", exclude_none=True)))
    line += ["--space", str(space), "--out", str(tmp_path / "rank")]
    done = pmq(*line, "--json", command=SHALLOW)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["default"] in answer
    keys = {"tau", "tau_low", "tau_high", "tau_one_budget", "optimum_kl", "optimum_agreement", "seconds"}
    for name in ("fisher_shrunk", "sqnr", "uniform", answer["default"]):
        assert keys <= set(answer[name]), name
    assert answer[answer["default"]]["optimum_kl"] < answer["uniform"]["optimum_kl"]
    assert {"rank.csv", "allocations.csv", "predictions.png", "optima.svg"} <= {p.name for p in (tmp_path / "rank").iterdir()}
    assert pmq(*line).returncode == 2  # there already, and no --resume
