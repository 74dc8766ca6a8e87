"""Tokens with values far larger than those of all others: a grid that covers them leaves nothing for the others."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pmq
from pmq.optimize import read_space
from pmq.optimize.space_file import OneChoice
from pmq.quant.estimators import ESTIMATORS
from pmq.quant.quantizers import Affine
from pmq.quant.ranges import near

#: largest planted value, and share of tokens that have one
LARGE, SHARE = 5000.0, 0.005
#: images of calibration, and of comparison
SPLIT = 32, 128


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pmq.open_images(None, None).calibration_images(sum(SPLIT), 0)


@pytest.fixture(scope="module")
def planted(images: Tensor) -> nn.Module:
    """The embedded model with a hidden value of up to some thousand at a few tokens of each block, which no output reads.

    So do class tokens, registers and background patches of large models: their values say that nothing is there.
    """
    model: Any = copy.deepcopy(pmq.create_model())
    before = model(images)
    for block in model.blocks:
        seen: list[Tensor] = []
        handle = block.mlp.fc1.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].detach()))
        model(images)
        handle.remove()
        direction = seen[0][:, 0].mean(0) - seen[0][:, 1:].mean((0, 1))
        along = (seen[0] @ direction).flatten()
        least = along.quantile(1 - SHARE)
        unit = int(block.mlp.fc2.weight.norm(dim=0).argmin())
        steep = LARGE / (along.max() - least)
        with torch.no_grad():
            block.mlp.fc1.weight[unit], block.mlp.fc1.bias[unit] = steep * direction, -steep * least
            block.mlp.fc2.weight[:, unit] = 0
    changed = (model(images).argmax(1) != before.argmax(1)).float().mean()
    assert changed < 0.1
    return model


def agreement(model: nn.Module, images: Tensor, recipe: str, *modes: str) -> float:
    """Return the agreement with FP32 of 8-bit layers, whose inputs have grids of the first mode that they can have."""
    space = read_space("onnxruntime-token")
    by_token = space.modes["int8-token"]
    known = {**space.modes, "relative": by_token.model_copy(update={"input": OneChoice(bits=8, quantizer="relative")})}
    space = space.model_copy(update={"modes": {name: known[name] for name in (*modes, "float")}})
    calibration, compared = images.split(SPLIT)
    table = pmq.evaluate(model, "w8a8", [compared], calibration_images=calibration, recipe=recipe, space=space)
    return float(table["agreement"].iloc[0])


def test_a_grid_over_all_values_fails(planted: nn.Module, images: Tensor) -> None:
    assert agreement(planted, images, "minmax", "int8") < 50


def test_a_range_weighted_by_the_effect_of_errors_holds(planted: nn.Module, images: Tensor) -> None:
    assert agreement(planted, images, "fast", "int8") > 95


def test_a_grid_for_each_token_holds(planted: nn.Module, images: Tensor) -> None:
    assert agreement(planted, images, "minmax", "int8-token") > 95


@pytest.mark.parametrize("recipe", ["minmax", "fast"])
def test_levels_that_grow_with_the_token_hold(recipe: str, planted: nn.Module, images: Tensor) -> None:
    assert agreement(planted, images, recipe, "relative", "int8") > 95


def test_a_search_gives_grids_by_token_to_the_layers_that_need_them(planted: nn.Module, images: Tensor, tmp_path: Path) -> None:
    space = read_space("onnxruntime-token")
    modes = {name: space.modes[name] for name in ("int8", "int8-token")}
    chosen = pmq.search(
        planted,
        images,
        "size=1MB",
        space=space.model_copy(update={"modes": modes}),
        options=pmq.SearchOptions(recipe="minmax"),
        split=pmq.DataSplit(*SPLIT),
    ).allocation
    by_token = {name for name, choice in chosen.assignment.items() if choice.quantizer == "dynamic"}
    assert {f"blocks.{i}.mlp.fc2.input" for i in range(6)} <= by_token
    assert chosen.metrics["agreement"] is not None and chosen.metrics["agreement"] > 95
    deployed = pmq.deploy(planted, chosen, "onnxruntime", images[SPLIT[0] :], tmp_path, n_passes=3)
    assert deployed.status == "proved"
    assert deployed.proof["bits"].passed


def test_far_values_count_by_their_own_gradient_alone() -> None:
    values = torch.linspace(-1, 1, 1000)[None].repeat(2, 1)
    values[0, 3], values[1, 3] = 60.0, 70.0
    assert near(values).sum(1).tolist() == [1000, 999]
    assert bool((near(torch.tensor([[0.0] * 999 + [5.0]])) == 1).all())  # nearly all values are zero, as behind a ReLU


def test_a_range_shrinks_as_far_as_it_must() -> None:
    x = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    weight = torch.ones_like(x)
    x[0, 0], weight[0, 0] = 1e5, 0.0
    low, high = ESTIMATORS["fisher"].estimate(x, Affine.variants(8, False)[0], False, weight)
    assert 2 < float(high) < 6 and -6 < float(low) < -2
