"""Searches of all kinds, each of them a shallow one: what is asked of them here is not how good a front they find."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import pmq
from pmq.core import Budget, PmqError
from pmq.core import recipe as recipes
from pmq.cost import CostModel
from pmq.graph import analyse
from pmq.models import model_info
from pmq.pipeline.search.finalists import NEAR
from tests.asked import asked
from tests.conftest import make_tiny
from tests.shallow import few_bits

pytestmark = pytest.mark.usefixtures("shallow")
FEW = few_bits(2, 4, 6)
GIVEN = {"space": FEW, "n_calibration": 8, "n_held_out": 16}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def found(images: torch.Tensor) -> pmq.api.SearchResult:
    return pmq.search(make_tiny(), images, "4bit", **asked(**GIVEN))


def test_same_seed_same_front_in_whatever_batches_images_come(found, images: torch.Tensor) -> None:
    labelled = [(x, torch.zeros(len(x))) for x in images.split(5)]
    again = pmq.search(make_tiny(), labelled, Budget.parse("4bit"), **asked(**GIVEN))
    pd.testing.assert_frame_equal(again.points, found.points)
    assert again.allocation == found.allocation
    for bad in ([], [torch.zeros(3)], ["x"], torch.zeros(4, 3, 32, 32)):
        with pytest.raises(PmqError):
            pmq.search(make_tiny(), bad, "4bit")


def test_budgets_are_never_exceeded(images: torch.Tensor) -> None:
    model = make_tiny()
    costs = CostModel(analyse(model, images[:1])[1])
    for budget in ("3bit", "w3a6", "0.2x", "bitops=0.02G,size=0.02MB"):
        result = pmq.search(
            model,
            images,
            budget,
            space=FEW,
            options=pmq.SearchOptions(recipe="fast"),
            split=pmq.DataSplit(n_calibration=4, n_held_out=8),
        )
        size, ops = costs.size_bytes(result.allocation.assignment), costs.bit_ops(result.allocation.assignment)
        assert result.limits.allow(size, ops), budget
        assert result.allocation.budget.achieved == {"size_bytes": size, "bit_ops": ops}


def test_feature_extractor_is_searched_on_its_features(images: torch.Tensor) -> None:
    result = pmq.search(make_tiny(num_classes=0), images, "4bit", **asked(**GIVEN))
    chosen = result.points[result.points["chosen"]].iloc[0]
    w4a4 = result.points[result.points["source"] == "uniform w4a4"].iloc[0]
    assert chosen["feature_error"] <= NEAR * w4a4["feature_error"]  # simulated; they are compared once they are quantized
    assert result.allocation.metrics["agreement"] is None
    table = pmq.evaluate(make_tiny(num_classes=0), result.allocation, [images])
    assert table["feature_error"].notna().all()


@pytest.mark.parametrize("name", ["swin", "distilled"])
def test_other_families(name: str, images: torch.Tensor) -> None:
    from tests.graph.test_inventory import zoo

    result = pmq.search(zoo(name), images, "4bit", space=FEW, split=pmq.DataSplit(n_calibration=4, n_held_out=8))
    assert pmq.simulate(zoo_again(name, result), result.allocation)(images[:2]).shape == (2, 5)


def zoo_again(name: str, result: pmq.api.SearchResult) -> torch.nn.Module:
    """The random models of the zoo differ each time: make the allocation's own by its hash."""
    from tests.graph.test_inventory import zoo

    torch.manual_seed(0)
    model = zoo(name)
    object.__setattr__(result.allocation.model, "weights_sha256", model_info(model).weights_sha256)
    return model


def test_spaces_with_fp32_and_one_choice(images: torch.Tensor) -> None:
    result = pmq.search(
        make_tiny(),
        images,
        "0.4x",
        space="int8_fp32",
        options=pmq.SearchOptions(recipe="fast"),
        split=pmq.DataSplit(n_calibration=4, n_held_out=8),
    )
    assert {c.bits for c in result.allocation.components.values()} == {8, 32}
    single = pmq.search(
        make_tiny(),
        images,
        "w8a8",
        space="w4a8",
        options=pmq.SearchOptions(recipe="fast"),
        split=pmq.DataSplit(n_calibration=4, n_held_out=8),
    )
    assert {c.bits for n, c in single.allocation.components.items() if not n.endswith(".weight")} == {8}


def test_budget_below_the_cheapest_point_gives_that_point(images: torch.Tensor) -> None:
    with pytest.raises(PmqError, match="ask for at least size=") as error:
        pmq.search(make_tiny(), images, "size=1kB", space=FEW)
    lower_bound = str(error.value).rpartition("at least ")[2]
    assert pmq.search(make_tiny(), images, lower_bound, space=FEW, split=pmq.DataSplit(n_calibration=4, n_held_out=8)).allocation


def test_reconstruction_is_kept_only_where_it_helps(
    found, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "RECONSTRUCTION_STEPS", 40)
    learned = pmq.search(make_tiny(), images, "4bit", out=tmp_path / "run", **asked(**GIVEN, reconstruct=True))
    assert len(list((tmp_path / "run" / "learned").rglob("stage-*.safetensors"))) == 2
    assert learned.allocation.assignment == found.allocation.assignment
    assert learned.allocation.metrics["kl"] <= found.allocation.metrics["kl"]
    table = pmq.evaluate(
        make_tiny(), "w4a4", [images], calibration_images=images[:8], reconstruct=True, checkpoints=tmp_path / "kept", amp=True
    )
    assert table["amp_agreement"][0] > 50
    assert list((tmp_path / "kept").rglob("*.safetensors"))


def test_limits_of_effort_are_kept(images: torch.Tensor) -> None:
    few = pmq.search(make_tiny(), images, "4bit", **asked(**GIVEN, max_evals=5, n_rounds=4))
    assert len(few.rounds) < 4
    assert few.rounds["simulated"].iloc[-1] <= 5
    none = pmq.search(make_tiny(), images, "4bit", **asked(**GIVEN, time_limit=0))
    assert len(none.rounds) == 1
    assert none.allocation.budget.achieved["size_bytes"] <= none.limits.size_bytes


def test_rank_compares_metrics_with_the_truth(images: torch.Tensor, tmp_path: Path) -> None:
    more = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    options = {"budgets": ("4bit", "5bit"), "n_random": 8, "n_calibration": 8, "n_probe": 8, "n_held_out": 12, "n_truth": 16}
    options |= {"space": FEW}
    metrics = ("fisher", "measured", "l2", "gradient@w4a4", "superposition")
    ranks = pmq.rank(make_tiny(), more, metrics, **options, out=tmp_path / "rank")
    summary, allocations = ranks.summary, ranks.allocations
    assert ranks.default == "fisher_shrunk+rounds"
    assert [*metrics, ranks.default, "uniform", "random", "greedy_sqnr"] == list(summary.index)
    assert (allocations["set"] == "all budgets").sum() == (allocations["set"] == "4.5bit").sum() == 8
    known = summary.loc[[*metrics, ranks.default]]
    assert ((known["tau_low"] - 1e-9 <= known["tau"]) & (known["tau"] <= known["tau_high"] + 1e-9)).all()
    assert summary.loc["measured", "tau"] > 0.5
    assert (summary[["kl 4bit", "kl 5bit"]] > 0).all(axis=None)
    # What several metrics look at is measured once and counts for each.
    assert summary.loc["superposition", "seconds"] > 0.5 * summary.loc["measured", "seconds"]
    assert (known["passes"] > 1).all()
    again = pmq.rank(make_tiny(), more, metrics, **options, out=tmp_path / "rank", resume=True)
    columns = [c for c in summary if c not in ("seconds", "passes")]
    pd.testing.assert_frame_equal(again.summary[columns], summary[columns])
    written = pmq.Allocation.load(tmp_path / "rank" / "allocations" / "measured-4bit.json")
    assert written.budget.text == "4bit"
    with pytest.raises(PmqError, match="fewer than"):
        pmq.rank(make_tiny(), images, ("fisher",))
    with pytest.raises(PmqError, match="sensitivity metric 'magic'"):
        pmq.rank(make_tiny(), more, ("magic@w4a4",), **options)
