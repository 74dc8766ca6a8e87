from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import pmq
from pmq.api.again import solve_again
from pmq.core import Budget, PmqError
from pmq.cost import CostModel
from pmq.models import model_info, take_inventory
from pmq.search import Space, UniformCosts, read_space
from tests.conftest import Tiny, make_tiny


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def found(images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> pmq.api.SearchResult:
    out = tmp_path_factory.mktemp("runs") / "run"
    return pmq.search(make_tiny(), images, "4bit", calib_images=8, held_out=16, out=out)


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


def test_budgets_are_never_exceeded(images: torch.Tensor) -> None:
    model = make_tiny()
    costs = CostModel(take_inventory(model, images[:1]))
    for budget in ("3bit", "w3a6", "0.2x", "bitops=0.02G,size=0.02MB"):
        result = pmq.search(model, images, budget, calib_images=4, held_out=8)
        size, ops = costs.size_bytes(result.allocation.assignment), costs.bit_ops(result.allocation.assignment)
        assert result.limits.allow(size, ops), budget
        assert result.allocation.budget.achieved == {"size_bytes": size, "bit_ops": ops}


def test_same_seed_same_front(found, images: torch.Tensor) -> None:
    again = pmq.search(make_tiny(), images, "4bit", calib_images=8, held_out=16)
    pd.testing.assert_frame_equal(again.points, found.points)
    assert again.allocation == found.allocation


def test_images_may_come_in_any_batches(found, images: torch.Tensor) -> None:
    labelled = [(x, torch.zeros(len(x))) for x in images.split(5)]
    again = pmq.search(make_tiny(), labelled, Budget.parse("4bit"), calib_images=8, held_out=16)
    assert again.allocation == found.allocation
    for bad in ([], [torch.zeros(3)], ["x"], torch.zeros(4, 3, 32, 32)):
        with pytest.raises(PmqError):
            pmq.search(make_tiny(), bad, "4bit")


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


def test_feature_extractor_is_searched_on_its_features(images: torch.Tensor) -> None:
    result = pmq.search(make_tiny(num_classes=0), images, "4bit", calib_images=8, held_out=16)
    chosen = result.points[result.points["chosen"]].iloc[0]
    w4a4 = result.points[result.points["source"] == "uniform w4a4"].iloc[0]
    assert chosen["feature_error"] <= w4a4["feature_error"]
    assert result.allocation.metrics["agreement"] is None
    table = pmq.evaluate(make_tiny(num_classes=0), result.allocation, [images])
    assert table["feature_error"].notna().all()


@pytest.mark.parametrize("name", ["swin", "distilled"])
def test_other_families(name: str, images: torch.Tensor) -> None:
    from tests.models.test_components import zoo

    result = pmq.search(zoo(name), images, "4bit", calib_images=4, held_out=8)
    assert pmq.simulate(zoo_again(name, result), result.allocation)(images[:2]).shape == (2, 5)


def zoo_again(name: str, result: pmq.api.SearchResult) -> torch.nn.Module:
    """The random models of the zoo differ each time: make the allocation's own by its hash."""
    from tests.models.test_components import zoo

    torch.manual_seed(0)
    model = zoo(name)
    object.__setattr__(result.allocation.model, "weights_sha256", model_info(model).weights_sha256)
    return model


def test_spaces_with_fp32_and_one_choice(images: torch.Tensor) -> None:
    result = pmq.search(make_tiny(), images, "0.4x", space="int8_fp32", calib_images=4, held_out=8)
    assert {c.bits for c in result.allocation.components.values()} == {8, 32}
    single = pmq.search(make_tiny(), images, "w8a8", space="w4a8", calib_images=4, held_out=8)
    assert {c.bits for n, c in single.allocation.components.items() if not n.endswith(".weight")} == {8}


def test_budget_below_the_cheapest_point_gives_that_point(images: torch.Tensor) -> None:
    with pytest.raises(PmqError, match="ask for at least size=") as error:
        pmq.search(make_tiny(), images, "size=1kB")
    cheapest = str(error.value).rpartition("at least ")[2]
    assert pmq.search(make_tiny(), images, cheapest, calib_images=4, held_out=8).allocation


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
    table = pmq.sensitivity(make_tiny(), images, ("fisher", "measured"), calib_images=4)
    assert set(table.attrs["seconds"]) == {"fisher", "measured"}
    assert len(table[table["metric"] == "fisher"]) == len(table[table["metric"] == "measured"])


def test_tiny_is_left_alone(tiny: Tiny) -> None:
    with pytest.raises(AttributeError):
        pmq.nothing  # noqa: B018


def test_reconstruction_is_kept_only_where_it_helps(found, images: torch.Tensor, tmp_path: Path) -> None:
    learned = pmq.search(make_tiny(), images, "4bit", calib_images=8, held_out=16, reconstruct=True, out=tmp_path / "run")
    assert len(list((tmp_path / "run" / "learned").rglob("stage-*.safetensors"))) == 2
    assert learned.allocation.assignment == found.allocation.assignment
    assert learned.allocation.metrics["kl"] <= found.allocation.metrics["kl"]
    table = pmq.evaluate(
        make_tiny(), "w4a4", [images], calibration_images=images[:8], reconstruct=True, checkpoints=tmp_path / "kept", amp=True
    )
    assert table["amp_agreement"][0] > 50
    assert list((tmp_path / "kept").rglob("*.safetensors"))


def test_rounds_tell_what_they_gained_and_how_predictions_ranked(found) -> None:
    rounds = found.rounds
    assert 3 <= len(rounds) <= 4
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


def test_limits_of_effort_are_kept(images: torch.Tensor) -> None:
    few = pmq.search(make_tiny(), images, "4bit", calib_images=8, held_out=16, max_evals=6)
    assert len(few.rounds) == 1
    assert few.rounds["simulated"].iloc[-1] <= 6
    none = pmq.search(make_tiny(), images, "4bit", calib_images=8, held_out=16, time_limit=0)
    assert len(none.rounds) == 1
    assert none.allocation.budget.achieved["size_bytes"] <= none.limits.size_bytes


def test_another_budget_needs_no_model(found, tmp_path: Path) -> None:
    path, allocation = solve_again(found.run, "5bit")
    assert pmq.Allocation.load(path) == allocation
    w5a5 = Budget.parse("5bit").resolve(
        UniformCosts(Space(read_space("default"), take_inventory(make_tiny(), torch.zeros(1, 3, 32, 32))))
    )
    assert w5a5.allow(*allocation.budget.achieved.values())
    assert allocation.budget.achieved["bit_ops"] > 0.95 * w5a5.bit_ops
    with pytest.raises(PmqError, match="recalibrate"):
        pmq.simulate(make_tiny(), allocation)
    with pytest.raises(PmqError, match="ask for at least"):
        solve_again(found.run, "size=1kB")
    with pytest.raises(PmqError, match="no run directory"):
        solve_again(tmp_path, "4bit")


def test_rank_compares_metrics_with_the_truth(images: torch.Tensor, tmp_path: Path) -> None:
    more = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    options = {"budgets": ("4bit", "5bit"), "count": 8, "calib_images": 8, "probe_images": 8, "held_out": 12, "truth_images": 16}
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
