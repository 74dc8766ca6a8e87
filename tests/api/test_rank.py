"""``pmq.rank`` at unusual budgets."""

from __future__ import annotations

import torch

import pmq
from pmq.search import SpaceFile
from tests.conftest import make_tiny


def test_a_budget_may_be_that_of_the_random_allocations_too() -> None:
    weight, activation = {"bits": [4, 8], "granularity": "channel", "symmetric": True}, {"bits": [8]}
    little = SpaceFile.model_validate({"name": "little", "weight": weight, "activation": activation})
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    options = {"count": 5, "calib_images": 4, "probe_images": 4, "held_out": 8, "truth_images": 8, "recipe": "minmax"}
    ranks = pmq.rank(make_tiny(), images, ("sqnr",), budgets=("w6a8",), one_budget="w6a8", space=little, **options)
    assert ranks.summary.loc[["sqnr", ranks.default, "random"], "kl w6a8"].notna().all()
    assert (ranks.allocations["set"] == "w6a8").sum() == 5
