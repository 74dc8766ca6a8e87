from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pmq
from pmq.api import resolve
from pmq.core import Budget, PmqError
from pmq.graph import analyse
from pmq.models import model_info
from pmq.optimize import Space, UniformCosts, read_space
from tests.conftest import Tiny, make_tiny


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def found(images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> pmq.api.SearchResult:
    out = tmp_path_factory.mktemp("runs") / "run"
    return pmq.search(make_tiny(), images, "4bit", out=out, split=pmq.DataSplit(n_calibration=8, n_held_out=16))


def test_search_on_a_users_module(found, images: torch.Tensor) -> None:
    points, achieved = found.points, found.allocation.budget.achieved
    assert achieved["size_bytes"] <= found.limits.size_bytes
    assert achieved["bit_ops"] <= found.limits.bit_ops
    chosen = points[points["chosen"]]
    assert len(chosen) == 1
    w4a4 = pmq.evaluate(make_tiny(), "w4a4", [images[8:]], calibration_images=images[:8])
    assert found.allocation.metrics["kl"] <= w4a4["kl"][0]  # carried out alike, on the images that the search chose by
    assert {"uniform w8a8", "uniform w6a6", "uniform w4a4", "fp32"} <= set(points["source"])
    assert len(points) > 5000
    assert (~points["within"]).any()
    assert len(found.front) == points["front"].sum()


def test_simulate_gives_what_evaluate_reports(found, images: torch.Tensor) -> None:
    model = make_tiny()
    simulated = pmq.simulate(model, found.allocation)
    with torch.no_grad():
        agreement = 100 * float((simulated(images).argmax(1) == model(images).argmax(1)).float().mean())
    table = pmq.evaluate(model, found.allocation, [images])
    assert table.loc[0, "agreement"] == pytest.approx(agreement)
    assert table.loc[0, "size_bytes"] == found.allocation.budget.achieved["size_bytes"]


def test_simulate_leaves_the_model_and_survives_copies(found, images: torch.Tensor) -> None:
    import copy

    model = make_tiny()
    before = model_info(model).weights_sha256
    simulated = pmq.simulate(model, found.allocation)
    assert model_info(model).weights_sha256 == before
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(simulated)(images), simulated(images))


def test_allocation_of_another_model_is_refused(found) -> None:
    with pytest.raises(PmqError, match="is of model"):
        pmq.simulate(pmq.create_model(), found.allocation)
    other = make_tiny()
    torch.nn.init.zeros_(other.head.bias)
    other.head.bias.data += 1
    with pytest.raises(PmqError, match="recalibrate"):
        pmq.simulate(other, found.allocation)
    renamed = found.allocation.model_copy(update={"components": {"x.weight": next(iter(found.allocation.components.values()))}})
    with pytest.raises(PmqError, match=r"'x\.weight' does not exist"):
        pmq.simulate(make_tiny(), renamed)


def test_recalibration_fits_other_weights(found, images: torch.Tensor) -> None:
    other = make_tiny()
    other.head.bias.data += 1
    table = pmq.evaluate(other, [found.allocation, "w8a8"], [images], calibration_images=images[:8], recalibrate=True)
    assert table["kl"].notna().all()
    with pytest.raises(PmqError, match="calibration images"):
        pmq.evaluate(other, "w8a8", [images])


def test_run_directory_and_export(found, tmp_path: Path) -> None:
    names = {p.name for p in found.run.iterdir()}
    assert {
        "manifest.json",
        "journal.jsonl",
        "rounds.csv",
        "sensitivity.csv",
        "costs.csv",
        "front.csv",
        "points.csv",
        "allocations",
    } <= names
    allocation, schema = pmq.export(found.run, tmp_path / "a.json")
    assert pmq.Allocation.load(allocation) == found.allocation
    assert schema.is_file()
    with pytest.raises(PmqError, match="shorthand"):
        pmq.export("w4a4", tmp_path / "b.json")


def test_sensitivity_by_two_metrics(images: torch.Tensor) -> None:
    table = pmq.sensitivity(make_tiny(), images, ("fisher", "measured"), n_calibration=4)
    assert set(table.attrs["seconds"]) == {"fisher", "measured"}
    assert len(table[table["metric"] == "fisher"]) == len(table[table["metric"] == "measured"])


def test_tiny_is_left_alone(tiny: Tiny) -> None:
    with pytest.raises(AttributeError):
        pmq.nothing  # noqa: B018


def test_rounds_tell_what_they_gained_and_how_predictions_ranked(found) -> None:
    rounds = found.rounds
    assert len(rounds) == 2
    assert rounds["error"].is_monotonic_decreasing
    assert rounds["hypervolume"].is_monotonic_increasing
    assert {"calibration", "sensitivity", "solving", "simulation", "front", "finish", "total"} == set(found.seconds)
    assert found.ranking["all"]["n"] >= 10
    assert found.ranking["all"]["tau"] > 0.5
    manifest = json.loads((found.run / "manifest.json").read_text())
    assert manifest["ranking"] == found.ranking
    raced = found.points[(found.points["n_images"] > 0) & found.points["kl"].isna()]
    assert '"sensitivity/confirm/' in (found.run / "journal.jsonl").read_text(), "the last round measures near the optimum"
    assert len(raced), "all candidates were judged on all images"


def test_another_budget_needs_no_model(found, tmp_path: Path) -> None:
    path, allocation = resolve(found.run, "5bit")
    assert pmq.Allocation.load(path) == allocation
    w5a5 = Budget.parse("5bit").resolve(
        UniformCosts(Space(read_space("default"), analyse(make_tiny(), torch.zeros(1, 3, 32, 32))[1]))
    )
    assert w5a5.allow(*allocation.budget.achieved.values())
    assert allocation.budget.achieved["bit_ops"] > 0.95 * w5a5.bit_ops
    with pytest.raises(PmqError, match="recalibrate"):
        pmq.simulate(make_tiny(), allocation)
    with pytest.raises(PmqError, match="ask for at least"):
        resolve(found.run, "size=1kB")
    with pytest.raises(PmqError, match="no run directory"):
        resolve(tmp_path, "4bit")
