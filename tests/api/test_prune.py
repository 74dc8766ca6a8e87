"""Pruned models through all that works on models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import pmq
from pmq.core import Allocation, PmqError
from pmq.core.rundir import CHOSEN
from pmq.cost import CostModel
from pmq.graph import analyse
from pmq.models import model_label
from pmq.pipeline.pruned_model import load_pruned
from pmq.pruning import plan_of
from tests.asked import asked
from tests.conftest import make_tiny
from tests.pruning.test_units import Own

pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture(scope="module")
def pruned(images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> pmq.api.Pruned:
    return pmq.prune(make_tiny(), images[:24], 0.5, n_calibration=24, out=tmp_path_factory.mktemp("pruned"))


def test_a_plan_read_again_gives_the_same_weights(pruned: pmq.api.Pruned, images: torch.Tensor) -> None:
    assert pruned.file is not None
    other = make_tiny()
    with torch.no_grad():
        other.head.weight.zero_()  # weights come with the plan
    found, wanted = load_pruned(pruned.file, other), load_pruned(pruned.allocation, make_tiny())
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))
    assert sum(p.numel() for p in found.parameters()) == pruned.allocation.pruning.parameters
    plan = Allocation.load(pruned.file).pruning
    assert plan == pruned.allocation.pruning == plan_of(found)
    assert plan.recovered
    assert not pruned.cut.pruning.recovered
    inventory = analyse(found, images[:1])[1]
    achieved = pruned.allocation.budget.achieved
    assert achieved["size_bytes"] == 4 * plan.parameters
    assert achieved == CostModel(inventory).costs(pruned.allocation.assignment)


def test_a_plan_for_another_model_is_refused(pruned: pmq.api.Pruned, images: torch.Tensor) -> None:
    other = make_tiny()
    with torch.no_grad():
        other.head.weight.mul_(2)
    with pytest.raises(PmqError, match="was calibrated on weights"):
        pmq.evaluate(other, pruned.allocation, [images])
    with pytest.raises(PmqError, match="not of"):
        pmq.evaluate(None, pruned.allocation, [images[:, :1, :28, :28]])
    with pytest.raises(PmqError, match="belongs to another model"):
        load_pruned(pruned.allocation, make_tiny(embed_dim=64))
    otherwise = load_pruned(pmq.prune(make_tiny(), images[:16], 0.25).allocation, make_tiny())
    with pytest.raises(PmqError, match="of another pruned model"):
        pmq.evaluate(otherwise, pruned.allocation, [images])
    with pytest.raises(PmqError, match="pruned already"):
        pmq.prune(otherwise, images)


def test_agreement_is_with_the_model_before(pruned: pmq.api.Pruned, images: torch.Tensor) -> None:
    rows = pmq.evaluate(make_tiny(), ["fp32", pruned.cut, pruned.allocation], [images])
    fp32, cut, recovered = rows["kl"]
    assert fp32 < 1e-6 < recovered < cut
    assert rows["size_bytes"][1] == rows["size_bytes"][2] < 0.65 * rows["size_bytes"][0]
    again = pmq.evaluate(load_pruned(pruned.allocation, make_tiny()), pruned.allocation, [images])
    assert again["kl"][0] < 1e-6


def test_a_pruned_model_is_searched_mapped_and_deployed(pruned: pmq.api.Pruned, images: torch.Tensor, tmp_path: Path) -> None:
    model, whole = load_pruned(pruned.allocation, make_tiny()), make_tiny()
    table = pmq.profile(model, "onnxruntime", n_passes=3)
    assert table.model == model_label(model) != model_label(whole)
    options = {"n_calibration": 8, "n_held_out": 16, "n_rounds": 1, "max_evals": 4, "reference": whole}
    found = pmq.search(model, images, "w8a8", space="onnxruntime", out=tmp_path / "run", **asked(**options, latency=table))
    assert found.allocation.pruning == pruned.allocation.pruning
    chosen = Allocation.load(tmp_path / "run" / CHOSEN)
    assert chosen.metrics["kl"] > 0
    for given in (model, whole):  # tensors come with the allocation
        (kl,) = pmq.evaluate(given, chosen, [images[24:]])["kl"]
        assert kl > 0
    map_evaluator = pmq.reallocate(model, chosen, images, "static", share=0.95)
    assert map_evaluator.patches is not None
    made = pmq.deploy(whole, chosen, "onnxruntime", images[24:], tmp_path / "file", n_passes=3)
    assert made.proof["layers"].passed
    assert made.proof["size"].passed
    assert made.unpruned_latency_ms is not None
    assert made.promised_bytes == found.allocation.budget.achieved["size_bytes"]
    of_itself = pmq.deploy(model, "w8a8", "onnxruntime", images[24:], tmp_path / "own", calibration_images=images[:8], n_passes=3)
    assert of_itself.unpruned_latency_ms is None  # the model before pruning is not at hand
    floats = pmq.deploy(whole, pruned.allocation, "onnxruntime", images[24:], tmp_path / "fp32", n_passes=3)
    assert floats.passed
    assert floats.size_bytes < 0.75 * 4 * sum(p.numel() for p in whole.parameters())


def test_recalibration_recovers_anew(pruned: pmq.api.Pruned, images: torch.Tensor) -> None:
    rows = [
        pmq.evaluate(make_tiny(), item, [images[24:]], calibration_images=images[:24], recalibrate=True)["kl"][0]
        for item in (pruned.cut, pruned.allocation)
    ]
    assert rows[1] < rows[0]


def test_bad_input_is_told_before_any_work(searched: Allocation, images: torch.Tensor) -> None:
    with pytest.raises(PmqError, match="importance 'size' is not one of"):
        pmq.prune(make_tiny(), images, importance="size")
    with pytest.raises(PmqError, match="structure 'tail' is not one of"):
        pmq.prune(make_tiny(), images, structures=("tail",))
    with pytest.raises(PmqError, match=r"ratio 1\.5"):
        pmq.prune(make_tiny(), images, 1.5)
    with pytest.raises(PmqError, match="residual streams"):
        pmq.prune(make_tiny(), images, structures=("embedding",))
    with pytest.raises(PmqError, match="no pruned model"):
        load_pruned(searched)


def test_heads_with_norms_are_not_mixed_when_carried_out_anew(images: torch.Tensor) -> None:
    model = make_tiny(qk_norm=True)
    pruned = pmq.prune(model, images[:24], 0.5, structures=("hidden", "rank", "heads")).allocation
    assert {u.kept_heads for n, u in pruned.pruning.units.items() if "attn" in n} == {1}
    once, again = (
        pmq.evaluate(model, pruned, [images[24:]], calibration_images=images[:24], recalibrate=anew)["kl"][0]
        for anew in (False, True)
    )
    assert again == pytest.approx(once, rel=0.05)


def test_an_allocation_of_the_whole_model_is_not_laid_over_a_pruned_one(
    pruned: pmq.api.Pruned, searched: Allocation, images: torch.Tensor
) -> None:
    with pytest.raises(PmqError, match="of another pruned model"):
        pmq.evaluate(load_pruned(pruned.allocation, make_tiny()), searched, [images])


def test_a_pruned_model_with_norms_behind_convolutions_is_rebuilt_whole() -> None:
    def made(seed: int) -> Own:
        torch.manual_seed(seed)
        model = Own()
        model.embed = nn.Sequential(model.embed, nn.BatchNorm2d(32))  # type: ignore[assignment]
        model.embed[1].running_mean.uniform_()  # as after training
        model.embed[1].running_var.uniform_(0.5, 2)
        return model.eval()

    module, images = made(0), torch.randn(8, 3, 32, 32)
    found = pmq.prune(module, images, ratio=0.25, importance="reconstruction", structures=("hidden",), recovery=False)
    smaller = pmq.load_pruned(found.allocation, made(1))
    (row,) = pmq.evaluate(module, [found.allocation], [images]).to_dict("records")
    with torch.no_grad():
        wanted, output = module(images), smaller(images)
    assert row["agreement"] == 100 * float((output.argmax(1) == wanted.argmax(1)).float().mean())
    assert (output - wanted).norm() < 0.5 * wanted.norm()
