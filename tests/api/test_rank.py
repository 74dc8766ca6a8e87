"""``pmq.rank`` at unusual budgets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pmq
from pmq.optimize import SpaceFile
from tests.conftest import make_tiny

pytestmark = pytest.mark.usefixtures("shallow")
LITTLE = SpaceFile.model_validate(
    {
        "name": "little",
        "weight": {"bits": [4, 8], "granularity": "channel", "symmetric": True},
        "activation": {"bits": [8]},
    }
)
OPTIONS = {
    "n_random": 5,
    "n_calibration": 4,
    "n_probe": 4,
    "n_held_out": 8,
    "n_truth": 8,
    "recipe": "minmax",
    "space": LITTLE,
}


def test_a_budget_may_be_that_of_the_random_allocations_too_and_nothing_is_journaled_twice(tmp_path: Path) -> None:
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    ranks = pmq.rank(make_tiny(), images, ("sqnr",), budgets=("w6a8",), one_budget="w6a8", **OPTIONS, out=tmp_path / "rank")
    assert ranks.summary.loc[["sqnr", ranks.default, "random"], "kl w6a8"].notna().all()
    assert (ranks.allocations["set"] == "w6a8").sum() == 5

    journal = (tmp_path / "rank" / "journal.jsonl").read_bytes()
    pmq.rank(make_tiny(), images, ("sqnr",), budgets=("w6a8",), one_budget="w6a8", **OPTIONS, out=tmp_path / "rank", resume=True)
    assert (tmp_path / "rank" / "journal.jsonl").read_bytes() == journal  # nothing is measured or written down twice
