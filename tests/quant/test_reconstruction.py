"""Learning rounding and scales block by block."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch

from pmq.core import Choice, PmqError
from pmq.core.recipe import RECIPES, find_recipe
from pmq.core.task import Task
from pmq.graph import CapturedModel, analyse
from pmq.optimize import Space, read_space
from pmq.quant import build_quantized_model, layerwise, prepare, quantize, quantize_weight, quantized_model
from pmq.quant.quantizers import Affine, Codebook, Log, Palette, Power
from pmq.quant.quantizers.base import Quantizer
from pmq.quant.reconstruction import LearnedActivation, LearnedWeight, LearningSchedule, block
from tests.conftest import Tiny, make_captured, make_tiny
from tests.quant.test_transforms import make

LEARNING = RECIPES["best"].model_copy(update={"reconstruct": 40})
CHOICES = [
    Choice(bits=3, granularity="channel", symmetric=True),
    Choice(bits=4, granularity="group", group_size=10),
    Choice(bits=3, quantizer="palette", granularity="channel", symmetric=True),
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: f"{c.quantizer}-{c.granularity}")
def test_a_weight_starts_at_its_codes_and_has_the_codes_of_its_positions(choice: Choice) -> None:
    weight = torch.randn(9, 24, generator=torch.Generator().manual_seed(0))
    start = quantize_weight(weight, choice)
    learned = LearnedWeight(weight, start, choice)
    assert torch.equal(learned.compute().codes, start.codes)
    with torch.no_grad():
        learned.position.add_(0.9 * torch.randn_like(learned.position).sign())
        learned.gain.mul_(1.5)
    moved = learned.compute()
    assert int((moved.codes.int() - start.codes.int()).abs().max()) == 1
    assert int(moved.codes.max()) < 2**choice.bits
    torch.testing.assert_close(moved.dequantize(), learned(), rtol=1e-5, atol=1e-6)


def test_a_position_learns_from_the_level_that_it_is_rounded_to() -> None:
    weight = torch.linspace(-1, 1, 24).reshape(2, 12)
    learned = LearnedWeight(weight, quantize_weight(weight, CHOICES[0]), CHOICES[0])
    learned().square().sum().backward()
    steps = learned.compute().quantizer.parameters["scale"]
    torch.testing.assert_close(learned.position.grad, 2 * learned().detach() * steps)


def test_positions_in_a_palette_are_rounded_to_the_nearest_level() -> None:
    palette = Palette({"levels": torch.tensor([0.0, 107.0, 137.0, 254.0]), "scale": torch.tensor([[0.1], [2.0]])}, 2)
    x = torch.linspace(-15, 15, 301).repeat(2, 1) * palette.scale * 10
    positions = palette.positions(x)
    assert torch.equal(positions.round().clamp(0, 3).int(), palette.codes(x))
    torch.testing.assert_close(palette.positions(palette.decode(torch.arange(4).repeat(2, 1))), torch.arange(4.0).repeat(2, 1))
    widths = palette.steps(torch.arange(4)[None]) / palette.scale
    torch.testing.assert_close(widths, torch.tensor([[107.0, 68.5, 73.5, 117.0]]).expand(2, 4))


def quantizers() -> list[Quantizer]:
    table = {"levels": torch.tensor([0.0, 3.0, 9.0, 255.0]), "scale": torch.tensor(0.02), "zero_point": torch.tensor(9.0)}
    return [
        Affine.from_range(torch.tensor([[0.0]]), torch.tensor([[2.0]]), 3, False),
        Log.from_range(torch.tensor([[0.0]]), torch.tensor([[2.0]]), 3, 2),
        Power.from_range(torch.tensor([[0.0]]), torch.tensor([[2.0]]), 3, 2),
        Codebook(table, 2),
    ]


@pytest.mark.parametrize("quantizer", quantizers(), ids=lambda q: q.name)
def test_an_activation_is_quantized_as_before_and_then_by_what_was_learned(quantizer: Quantizer) -> None:
    def spread(q: Quantizer) -> Quantizer:
        return type(q)({k: v.reshape(()) if v.numel() == 1 else v for k, v in q.parameters.items()}, q.bits)

    learned = LearnedActivation(quantizer, spread, lambda t: t.reshape(()))
    x = torch.linspace(0, 5, 400).requires_grad_()
    torch.testing.assert_close(learned(x), spread(quantizer)(x.detach()))
    (gradient,) = torch.autograd.grad(learned(x).sum(), x)
    top = float(quantizer.ends[1])
    assert torch.equal(gradient, (x.detach() <= top).float())
    with torch.no_grad():
        learned.gain.fill_(1.25)
    torch.testing.assert_close(learned(x).detach(), spread(learned.compute())(x.detach()), rtol=1e-4, atol=1e-5)


def uniform(inventory, bits: int) -> dict[str, Choice]:
    return Space(read_space("default"), inventory, "fisher").uniform(bits, bits)


@torch.no_grad()
def test_learning_brings_the_outputs_of_blocks_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "row_weights", lambda *_: None)  # all rows count the same
    monkeypatch.setattr(block, "LearningSchedule", partial(LearningSchedule, rounding_rate=1e-2, exact=0.0))
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    model, inventory = analyse(make_tiny(), images[:1])
    prepared = prepare(model, inventory, images, LEARNING)
    errors, codes = {}, {}

    def blocks(of: CapturedModel) -> list[torch.Tensor]:
        return [of.run(images, 0, stage) for stage in (2, 3)]

    wanted = blocks(prepared.model)
    for steps in (0, 100):
        recipe = LEARNING.model_copy(update={"reconstruct": steps})
        quantized = quantize(dataclasses.replace(prepared, recipe=recipe), uniform(prepared.inventory, 3))
        codes[steps] = quantized.tensors.arrays()["blocks.0.attn.qkv.weight.codes"]
        outputs = blocks(build_quantized_model(copy.deepcopy(model), prepared.inventory, quantized).model)
        errors[steps] = [float((a - b).square().mean()) for a, b in zip(outputs, wanted, strict=True)]
    assert all(after < 0.9 * before for before, after in zip(errors[0], errors[100], strict=True)), errors
    assert (codes[0] != codes[100]).any()


class _Killed(Exception):
    pass


@torch.no_grad()
def test_a_killed_run_goes_on_and_ends_the_same(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(make_captured(), tiny.inventory, tiny.images, LEARNING)
    assignment = uniform(tiny.inventory, 4)
    whole = quantize(prepared, assignment)
    learn, calls = block.learn, []

    def counted(*args: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise _Killed
        learn(*args)

    monkeypatch.setattr(block, "learn", counted)
    with pytest.raises(_Killed):
        quantize(prepared, assignment, tmp_path)
    resumed = quantize(prepared, assignment, tmp_path)
    assert len(calls) == 3  # one block before the kill, the killed one, and that one again
    assert resumed.tensors == whole.tensors
    assert resumed.parameters == whole.parameters
    quantize(prepared, assignment, tmp_path)
    assert len(calls) == 3
    quantize(prepared, uniform(tiny.inventory, 5), tmp_path)
    assert len(calls) == 5  # another allocation is learned by itself
    monkeypatch.setattr(quantized_model, "REVISION", 0)
    quantize(prepared, assignment, tmp_path)
    assert len(calls) == 7  # blocks that another revision learned are learned again


@pytest.mark.parametrize("name", ["no bias", "normed", "distilled", "swin", "headless", "constant channels"])
@torch.no_grad()
def test_every_family_can_learn(name: str) -> None:
    module, images = make(name)
    wanted = module(images)
    (model, inventory), (fresh, _) = analyse(module, images[:1]), analyse(make(name)[0], images[:1])
    recipe = LEARNING.model_copy(update={"reconstruct": 3})
    prepared = prepare(model, inventory, images, recipe, task=Task("classification" if name != "headless" else "features"))
    output = build_quantized_model(fresh, inventory, quantize(prepared, uniform(inventory, 8))).model(images)
    assert float((output - wanted).norm() / wanted.norm()) < 0.1


def test_needs_a_recipe_that_goes_layer_by_layer() -> None:
    assert find_recipe("best", reconstruct=True).reconstruct > 0
    with pytest.raises(PmqError, match="layer by layer"):
        find_recipe("fast", reconstruct=True)
