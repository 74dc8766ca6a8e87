"""Bits of single tokens: maps, the solver, sensitivities, what the simulator makes of them."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pmq
from pmq.api.reallocate import reallocate
from pmq.core import Allocation, PmqError
from pmq.core.patches import PatchMap, TokenBits
from pmq.cost import CostModel
from pmq.graph import analyse
from pmq.patches.allocate import pooled, shrunk, solve
from pmq.patches.sensitivity import TokenErrors
from pmq.patches.tokens import patchable
from pmq.pipeline.patches.reallocator import Reallocator
from pmq.quant.token_scores import SCORES, Attention, Ranker
from tests.conftest import make_tiny
from tests.shallow import few_bits

pytestmark = pytest.mark.usefixtures("shallow")
FEW = few_bits(2, 4, 6)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def allocation(images: torch.Tensor) -> Allocation:
    found = pmq.search(
        make_tiny(),
        images,
        "4bit",
        space=FEW,
        options=pmq.SearchOptions(n_rounds=1),
        split=pmq.DataSplit(n_calibration=8, n_held_out=16),
    ).allocation
    return found.model_copy(update={"metrics": {}})


@pytest.fixture(scope="module")
def reallocator(allocation: Allocation, images: torch.Tensor) -> Reallocator:
    return Reallocator(make_tiny(), allocation, images[:32])


def test_the_solver_finds_what_trying_all_finds() -> None:
    rng = np.random.default_rng(0)
    errors = {name: np.sort(rng.random((3, 3)) ** 3, 0)[::-1] for name in ("a", "b")}
    bits = {"a": (0, 2, 4), "b": (0, 3, 8)}
    prices = {"a": 1.0, "b": 2.0}
    for budget in (6.0, 17.0, 30.0, 60.0):
        found = solve(errors, bits, prices, budget)
        best = np.inf
        for picks in itertools.product(range(3), repeat=6):
            spent = sum(bits["a"][k] for k in picks[:3]) + 2 * sum(bits["b"][k] for k in picks[3:])
            error = sum(errors["a"][k, t] for t, k in enumerate(picks[:3])) + sum(
                errors["b"][k, t] for t, k in enumerate(picks[3:])
            )
            best = min(best, error if spent <= budget else np.inf)
        assert found.bit_ops <= budget
        assert found.error - found.gap <= best + 1e-9 <= found.error + 2e-9
    assert solve(errors, bits, prices, 60.0).error == pytest.approx(sum(e.min(0).sum() for e in errors.values()))
    with pytest.raises(PmqError, match="cheapest bits"):
        solve(errors, {"a": (1, 2, 4), "b": (1, 3, 8)}, prices, 8.0)


def test_estimates_are_drawn_together_by_how_noisy_they_are() -> None:
    truth = np.array([[9.0, 1.0, 2.0, 3.0, 4.0]])
    sure = TokenErrors((0,), truth, np.full((1, 5), 1e-12))
    np.testing.assert_allclose(shrunk(sure, 1), truth)
    noisy = TokenErrors((0,), truth, np.full((1, 5), 10.0))
    np.testing.assert_allclose(shrunk(noisy, 1), [[9.0, 2.5, 2.5, 2.5, 2.5]], rtol=1e-5)
    np.testing.assert_allclose(pooled(sure, 1, groups=2), [[9.0, 1.5, 1.5, 3.5, 3.5]])


def test_scores_rank_tokens() -> None:
    x = torch.tensor([[[0.0, 1.0], [5.0, 5.0], [0.0, 3.0]]])
    softmax = torch.tensor([[[[0.0, 0.9, 0.1], [0.0, 0.2, 0.8], [0.0, 0.2, 0.8]]]])
    told = {name: SCORES[name](x, Attention.of(softmax)).argmax().item() for name in SCORES if name != "random"}
    assert told == {"range": 2, "norm": 1, "received": 2, "class": 1, "received_range": 2, "class_range": 2}
    ranker = Ranker("norm", prefix=1)
    assert ranker.order("a", x).tolist() == [[0, 1, 2]]
    assert ranker.known("a").tolist() == [[0, 1, 2]]


def test_last_blocks_patches_matter_to_nothing_where_the_class_token_decides(reallocator: Reallocator) -> None:
    errors = reallocator.errors()
    for leaf in ("attn.q", "attn.softmax", "attn.proj.input", "mlp.fc1.input", "mlp.fc2.input"):
        assert float(np.abs(errors[f"blocks.1.{leaf}"].error[:, 1:]).max()) == 0
        assert errors[f"blocks.1.{leaf}"].error[0, 0] > 0
    assert float(errors["blocks.1.attn.qkv.input"].error[0, 1:].min()) > 0  # keys and values are read
    found = reallocator.allocate("static")
    assert found.patches is not None
    for leaf in ("attn.q", "attn.softmax", "attn.proj.input", "mlp.fc1.input", "mlp.fc2.input"):
        bits = found.patches.components[f"blocks.1.{leaf}"].bits
        assert set(bits[1:]) == {"0"}
        assert bits[0] != "0"


def test_models_pooled_by_average_keep_them(images: torch.Tensor) -> None:
    model = make_tiny(global_pool="avg")
    found = pmq.search(
        model,
        images,
        "4bit",
        space=FEW,
        options=pmq.SearchOptions(n_rounds=1),
        split=pmq.DataSplit(n_calibration=8, n_held_out=16),
    ).allocation
    errors = Reallocator(model, found, images[:32]).errors()
    assert float(errors["blocks.1.mlp.fc2.input"].error[0, 1:].min()) > 0


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_map_is_simulated_as_it_is_written(
    kind: str, reallocator: Reallocator, allocation: Allocation, images: torch.Tensor, tmp_path: Path
) -> None:
    found = reallocator.allocate(kind)
    assert found.budget is not None and allocation.budget is not None
    assert found.budget.achieved["bit_ops"] <= allocation.budget.achieved["bit_ops"] * (1 + 1e-9)
    read = Allocation.load(found.save(tmp_path / "allocation.json"))
    assert read.patches == found.patches
    one, two = (pmq.simulate(make_tiny(), a) for a in (found, read))
    with torch.no_grad():
        torch.testing.assert_close(one(images[:3]), two(images[:3]))
        torch.testing.assert_close(one(images[:3])[:1], one(images[:1]), rtol=1e-4, atol=1e-4)  # no image sees another
        assert not torch.allclose(one(images[:3]), pmq.simulate(make_tiny(), allocation)(images[:3]))
    table = pmq.evaluate(make_tiny(), [read, allocation], [images[24:]])
    assert table["bit_ops"][0] == pytest.approx(found.budget.achieved["bit_ops"])
    assert table["size_bytes"][0] > table["size_bytes"][1]


def test_all_tokens_at_their_own_bits_are_the_allocation_itself(
    reallocator: Reallocator, allocation: Allocation, images: torch.Tensor
) -> None:
    own = {n: TokenBits(bits=str(allocation.components[n].bits) * p.tokens) for n, p in reallocator.places.items()}
    for patches in (PatchMap(kind="static", components=own), PatchMap(kind="dynamic", score="range", prefix=1, components=own)):
        same = allocation.model_copy(update={"patches": patches})
        with torch.no_grad():
            wanted = pmq.simulate(make_tiny(), allocation)(images[:4])
            torch.testing.assert_close(pmq.simulate(make_tiny(), same)(images[:4]), wanted, rtol=1e-4, atol=1e-4)
        costs = CostModel(analyse(make_tiny(), images[:1])[1])
        assert costs.bit_ops(allocation.assignment, patches) == costs.bit_ops(allocation.assignment)


def test_tokens_without_bits_leave_the_class_token_alone(
    reallocator: Reallocator, allocation: Allocation, images: torch.Tensor
) -> None:
    """What the last block does not compute of its patches changes nothing at the output."""
    skipped = {}
    for leaf in ("attn.q", "attn.softmax", "attn.proj.input", "mlp.fc1.input", "mlp.fc2.input"):
        name = f"blocks.1.{leaf}"
        skipped[name] = TokenBits(bits=str(allocation.components[name].bits) + "0" * 16)
    without = allocation.model_copy(update={"patches": PatchMap(kind="static", prefix=1, components=skipped)})
    with torch.no_grad():
        wanted = pmq.simulate(make_tiny(), allocation)(images[:4])
        found = pmq.simulate(make_tiny(), without)(images[:4])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_windows_have_static_maps_of_their_layers(images: torch.Tensor) -> None:
    from pmq.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    options: dict[str, Any] = {"img_size": 56, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2), "num_classes": 7}
    model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, **options).eval()
    big = torch.randn(24, 3, 56, 56)
    found = pmq.search(
        model, big, "4bit", space=FEW, options=pmq.SearchOptions(n_rounds=1), split=pmq.DataSplit(n_calibration=8, n_held_out=8)
    ).allocation
    places = patchable(analyse(model, big[:1])[1], found.assignment)
    windowed = {p.component.slot for name, p in places.items() if name.startswith("layers.0")}
    assert windowed == {"input"}  # of the last stage's one window all queries read all keys
    assert places["layers.0.blocks.0.mlp.fc1.input"].tokens == places["layers.0.blocks.0.attn.qkv.input"].tokens == 196
    map_evaluator = reallocate(copy.deepcopy(model), found, big[:24])
    assert map_evaluator.patches is not None
    assert "0" not in map_evaluator.patches.components["layers.1.blocks.0.mlp.fc2.input"].bits  # pooled by average
    with torch.no_grad():
        assert torch.isfinite(pmq.simulate(model, map_evaluator)(big[:2])).all()
    with pytest.raises(PmqError, match="windows"):
        reallocate(model, found, big[:24], "dynamic")


def test_what_cannot_be_is_told(reallocator: Reallocator, allocation: Allocation, images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(PmqError, match="kind 'both'"):
        reallocator.allocate("both")
    with pytest.raises(PmqError, match="token score 'luck'"):
        reallocator.allocate("dynamic", score="luck")
    with pytest.raises(PmqError, match="cheapest bits"):
        reallocator.allocate("static", share=1e-3)
    map_evaluator = reallocator.allocate("static")
    with pytest.raises(PmqError, match="simulated only"):
        pmq.deploy(make_tiny(), map_evaluator, "onnxruntime", images[:4], tmp_path / "out")


def test_a_map_can_be_carried_out_anew(reallocator: Reallocator, images: torch.Tensor) -> None:
    """Grids of tokens' bits are fitted to those tokens; the map stays."""
    for kind in ("static", "dynamic"):
        laid = reallocator.allocate(kind)
        anew = reallocator.map_evaluator.refitted(laid)
        assert laid.patches is not None
        assert anew.patches is not None
        assert {n: t.bits for n, t in anew.patches.components.items()} == {n: t.bits for n, t in laid.patches.components.items()}
        assert anew.patches != laid.patches or laid.recipe.sequential
        assert reallocator.map_evaluator.evaluated(anew).metrics["kl"] >= laid.metrics["kl"]  # type: ignore[operator]  (the better of both was kept)
        table = pmq.evaluate(make_tiny(), laid, [images[32:]], calibration_images=images[:8], recalibrate=True)
        assert table["kl"][0] < 1


def test_each_bit_width_has_a_grid_of_its_tokens() -> None:
    from pmq.core import Choice
    from pmq.quant.samples import Samples, largest_in_token
    from pmq.quant.token_samples import TokenSamples

    x = torch.rand(2, 8, 4, generator=torch.Generator().manual_seed(0))
    x[:, 0] *= 100
    bits = torch.full((2, 8, 4), 4.0)
    bits[:, 0] = 8
    first = Samples()
    first.add(x.reshape(1, -1), 1.0, torch.Generator().manual_seed(0))
    samples = TokenSamples(first)
    samples.add(x.reshape(1, -1), bits.reshape(1, -1), largest_in_token(x).reshape(1, -1))
    found = samples.fit({b: Choice(bits=b, estimator="minmax") for b in (4, 6, 8)})
    assert set(found) == {4, 8}
    assert float(found[4].parameters["scale"] * 15) < 1.1
    assert float(found[8].parameters["scale"] * 255) == pytest.approx(float(x.max()), rel=0.05)
