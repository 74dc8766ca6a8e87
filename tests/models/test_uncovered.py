"""What multiplies and is no product of two components is named, with its share."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pmq.core import Inventory
from pmq.models import take_inventory
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.models.trace import unfused
from tests.conftest import make_tiny

IMAGE = torch.zeros(1, 3, 32, 32)


def counted(model: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates as torch counts them, without knowing of modules."""
    with unfused(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() // 2


FAMILIES: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    "vit_tiny_patch16_224": ({"img_size": 32, "depth": 1}, 32, []),
    "vit_small_patch16_dinov3": ({"img_size": 32, "depth": 1}, 32, ["q and k are not thirds of qkv"]),
    "beit_base_patch16_224": (
        {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2},
        32,
        ["Attention multiplies by matrices outside", "qkv is not called as a module"],
    ),
    "swin_tiny_patch4_window7_224": ({"img_size": 56, "depths": (1, 2), "embed_dim": 12, "num_heads": (1, 2)}, 56, []),
    "swinv2_tiny_window8_256": (
        {"img_size": 32, "window_size": 4, "depths": (1, 1), "embed_dim": 12, "num_heads": (1, 2)},
        32,
        ["WindowAttention multiplies by matrices outside", "no rule for the products of WindowAttention"],
    ),
    "eva02_tiny_patch14_224": (
        {"img_size": 28, "depth": 1},
        28,
        ["EvaAttention multiplies by matrices outside", "qkv is not called as a module"],
    ),
    "xcit_nano_12_p16_224": ({"img_size": 32, "depth": 1}, 32, ["softmax is not one of all tokens", "convolution", "ClassAttn"]),
    "mobilevit_xxs": ({}, 64, ["convolution"]),
    "efficientvit_b0": ({}, 64, ["convolution", "no rule for the products of LiteMLA"]),
    "levit_conv_128s": ({}, 224, ["convolution", "no rule for the products of Attention"]),
    "maxvit_pico_rw_256": ({"img_size": 64}, 64, ["convolution", "v is not the last third of qkv"]),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_operators_and_what_is_uncovered_are_all_that_multiplies(name: str) -> None:
    ensure_torchvision()
    import timm

    options, size, reasons = FAMILIES[name]
    model = timm.create_model(name, pretrained=False, num_classes=3, **options).eval()
    image = torch.zeros(1, 3, size, size)
    inventory = take_inventory(model, image)
    assert inventory.total_macs == counted(model, image)
    assert inventory.macs + sum(entry.macs for entry in inventory.uncovered) == inventory.total_macs
    named = {entry.reason for entry in inventory.uncovered if entry.macs}
    assert all(any(reason in found for found in named) for reason in reasons), named
    assert bool(named) == bool(reasons) == (inventory.covered_share != 1)
    assert Inventory.from_dict(json.loads(json.dumps(inventory.to_dict()))) == inventory


class Mixing(nn.Module):
    """An MLP with something else around it."""

    def __init__(self, mlp: nn.Module, how: str) -> None:
        super().__init__()
        self.mlp, self.how, self.matrix = mlp, how, nn.Parameter(torch.randn(32, 32))
        self.heads, self.row = nn.MultiheadAttention(32, 2, batch_first=True), nn.Conv1d(32, 32, 1)
        self.latent, self.gate = nn.Parameter(torch.randn(1, 32)), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        how = self.how
        if how == "raw matrix":
            return F.linear(self.mlp(x), self.matrix)
        if how == "attends":
            return self.heads(self.mlp(x), x, x)[0]
        if how == "convolves":
            return self.row(self.mlp(x).mT).mT
        if how == "products":
            return self.mlp(x) @ x.mT @ x
        if how == "latent":
            return self.mlp(x) * self.gate(self.latent)  # a parameter is what a layer is given
        if how == "vector":
            return self.mlp(x) * self.gate(x[0, 0])
        if how == "twice":
            return torch.cat([self.mlp(x[:, :3]), self.mlp(x[:, 3:])], 1)
        assert how == "by name"
        return self.mlp.fc2(input=self.mlp.act(self.mlp.fc1(input=x)))  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(
    ("how", "reasons"),
    [
        ("raw matrix", ["blocks.0.mlp: Mixing multiplies by matrices outside of its layers"]),
        ("attends", ["MultiheadAttention multiplies by matrices outside", "products of MultiheadAttention", "not called"]),
        ("convolves", ["blocks.0.mlp.row: no rule for Conv1d"]),
        ("products", ["blocks.0.mlp: no rule for the products of Mixing"]),
        ("latent", []),
        ("vector", []),
        ("twice", []),
        ("by name", []),
    ],
)
def test_products_outside_of_layers_are_named(how: str, reasons: list[str]) -> None:
    plain = make_tiny()
    whole = take_inventory(plain, IMAGE)
    plain.blocks[0].mlp = Mixing(plain.blocks[0].mlp, how)  # type: ignore[operator, index, union-attr]
    inventory = take_inventory(plain, IMAGE)
    more = inventory.total_macs - whole.total_macs
    gate = (0, 32)[how in ("latent", "vector")]
    assert sum(entry.macs for entry in inventory.uncovered) == more - gate
    assert inventory.macs == whole.macs + gate
    lines = [str(entry) for entry in inventory.uncovered if entry.macs or "heads" in entry.module]
    assert all(any(reason in line for line in lines) for reason in reasons)
    assert (more > gate) == bool(reasons)


def test_the_models_own_products_are_the_models() -> None:
    class Top(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit, self.classes = make_tiny(num_classes=0), nn.Parameter(torch.randn(5, 32))

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x) @ self.classes.T

    inventory = take_inventory(Top().eval(), IMAGE)
    entry = next(entry for entry in inventory.uncovered if not entry.module)
    assert (entry.module, entry.macs) == ("", 160)
    assert str(entry) == "the model itself: Top multiplies by matrices outside of its layers"


def test_inventories_of_old_are_read() -> None:
    data = take_inventory(make_tiny(), IMAGE).to_dict()
    del data["total_macs"]
    found = Inventory.from_dict(data | {"uncovered": ["blocks.0.pool: no rule for Conv1d"]})
    assert [str(entry) for entry in found.uncovered] == ["blocks.0.pool: no rule for Conv1d"]
    assert found.uncovered[0].module == "blocks.0.pool"
    assert (found.total_macs, found.covered_share) == (0, None)


def test_the_models_settings_are_as_before() -> None:
    model: Any = make_tiny()
    model.blocks[0].attn.fused_attn = True
    model.head.weight.requires_grad_(False)
    take_inventory(model, IMAGE)
    assert model.blocks[0].attn.fused_attn
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.weight"]
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
