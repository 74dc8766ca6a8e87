"""The reverse question: the least that a model can cost and still decide as FP32 does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pmq
from pmq.api import resolve
from pmq.core import Budget, PmqError
from tests.asked import asked
from tests.conftest import make_tiny

IMAGES = torch.randn(80, 3, 32, 32, generator=torch.Generator().manual_seed(0))
QUICK = {"recipe": "minmax", "n_rounds": 1, "max_evals": 4, "n_calibration": 8}


def test_the_least_that_agrees_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = pmq.search(make_tiny(), IMAGES, "agreement>=80", out=run, **asked(**QUICK))  # type: ignore[arg-type]
    assert found.allocation.metrics["agreement"] is not None
    assert found.allocation.metrics["agreement"] >= 80
    assert found.allocation.budget is not None
    whole = found.points[found.points["source"] == "uniform w8a8"].iloc[0]
    assert found.allocation.budget.achieved["size_bytes"] < whole["size_bytes"]  # type: ignore[operator]
    assert found.limits.bit_ops is None
    lower_bound = found.points[found.points["agreement"] >= 80]["size_bytes"].min()
    assert found.allocation.budget.achieved["size_bytes"] < 1.3 * lower_bound  # type: ignore[operator]
    assert found.points["chosen"].sum() == 1
    with pytest.raises(PmqError, match="is an agreement, which only a search can meet"):
        resolve(run, "agreement>=95")


def test_what_cannot_be_reached_is_told() -> None:
    with pytest.raises(PmqError, match=r"no allocation was found that agrees with FP32 on 99.9 % of decisions; the best one"):
        pmq.search(make_tiny(), IMAGES, "agreement>=99.9", **asked(**QUICK, constraints=pmq.Constraints(max_bits=3)))  # type: ignore[arg-type]


def test_it_is_for_decisions_and_bits_alone() -> None:
    images = torch.randn(24, 3, 32, 32)
    with pytest.raises(PmqError, match="is in decisions, but task 'features' has none"):
        pmq.search(make_tiny(num_classes=0), images, "agreement>=90", options=pmq.SearchOptions(recipe="minmax"))
    with pytest.raises(PmqError, match="is for bits alone"):
        pmq.search(make_tiny(), images, "agreement>=90", options=pmq.SearchOptions(patches="static"))
    for text in ("agreement>=100", "agreement>=0"):
        with pytest.raises(PmqError, match="percent is not between 0 and 100"):
            Budget.parse(text)
    assert Budget.parse("agreement>=97.5,size=2MB").agreement == Budget.parse("agreement=97.5").agreement == 97.5
