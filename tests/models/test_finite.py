"""Models that compute no numbers are refused, and what is at fault is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pmq.core import PmqError
from pmq.models.finite import check_finite, check_outputs
from tests.conftest import make_tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def spoiled(spoil: Callable[[Any], object]) -> nn.Module:
    model = make_tiny()
    spoil(model)
    return model


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda m: m.blocks[1].mlp.fc1.weight[3, 3].fill_(torch.nan), "'blocks.1.mlp.fc1.weight' of the model contains NaN"),
        (lambda m: m.norm.bias[0].fill_(torch.inf), "'norm.bias' of the model contains infinite values"),
        (lambda m: m.register_buffer("mean", torch.tensor([torch.nan])), "'mean' of the model contains NaN"),
        (lambda m: m.blocks[1].norm1.weight.fill_(3e38), "with such outputs is 'blocks.1.(norm1|attn.qkv)'"),
        (lambda m: [m.blocks[0].mlp.fc1.weight.fill_(1e38), m.blocks[0].mlp.fc2.weight.fill_(1e38)], "is 'blocks.0.mlp.fc"),
    ],
    ids=["NaN", "infinite", "buffer", "absurd norm", "absurd weights"],
)
def test_the_first_that_is_not_finite_is_named(spoil: Callable[[Any], object], told: str) -> None:
    with pytest.raises(PmqError, match=told):
        check_finite(spoiled(spoil), IMAGES)


def test_masks_may_hold_minus_infinity() -> None:
    check_finite(spoiled(lambda m: m.register_buffer("mask", torch.tensor([0.0, -torch.inf]))), IMAGES)


def test_a_limit_that_clamps_nothing_may_be_infinite_but_no_buffer_of_several_values() -> None:
    check_finite(spoiled(lambda m: m.register_buffer("input_max", torch.tensor(torch.inf))), IMAGES)
    with pytest.raises(PmqError, match="'variance' of the model contains infinite values"):
        check_finite(spoiled(lambda m: m.register_buffer("variance", torch.tensor([1.0, torch.inf]))), IMAGES)


def test_images_are_blamed_for_what_they_hold() -> None:
    model, images = make_tiny(), IMAGES.clone()
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(PmqError, match="the images contain NaN"):
        check_outputs(model, images, model(images))


def test_hooks_are_there_only_to_find_the_fault() -> None:
    model = spoiled(lambda m: m.blocks[1].norm1.weight.fill_(3e38))
    with pytest.raises(PmqError):
        check_finite(model, IMAGES)
    assert not any(module._forward_hooks for module in model.modules())
