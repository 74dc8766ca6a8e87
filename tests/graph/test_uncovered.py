"""Everything that multiplies is a component's product, whatever modules it is written in; and the account is torch's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmq.core import Inventory
from pmq.graph import analyse
from pmq.graph.macs import count_macs
from pmq.models.torchvision_ops import ensure_torchvision
from tests.conftest import make_tiny

IMAGE = torch.zeros(1, 3, 32, 32)
#: small versions of architectures: options, size of images
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "vit_small_patch16_dinov3": ({"img_size": 32, "depth": 1}, 32),
    "beit_base_patch16_224": ({"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2}, 32),
    "swin_tiny_patch4_window7_224": ({"img_size": 56, "depths": (1, 2), "embed_dim": 12, "num_heads": (1, 2)}, 56),
    "swinv2_tiny_window8_256": ({"img_size": 32, "window_size": 4, "depths": (1, 1), "embed_dim": 12, "num_heads": (1, 2)}, 32),
    "eva02_tiny_patch14_224": ({"img_size": 28, "depth": 1}, 28),
    "xcit_nano_12_p16_224": ({"img_size": 32, "depth": 1}, 32),
    "efficientvit_b0": ({}, 64),
    "levit_conv_128s": ({}, 224),
    "convit_tiny": ({"img_size": 32, "depth": 2, "embed_dim": 16, "num_heads": 4, "local_up_to_layer": 1}, 32),
    "maxvit_pico_rw_256": ({"img_size": 64, "depths": (1, 1), "embed_dim": (32, 64)}, 64),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_all_that_multiplies_is_found(name: str) -> None:
    ensure_torchvision()
    import timm

    options, size = FAMILIES[name]
    module = timm.create_model(name, pretrained=False, num_classes=3, **options).eval()
    images = torch.randn(2, 3, size, size)
    model, inventory = analyse(module, images[:1])
    assert inventory.covered_share == 1
    once = {entry.module for entry in inventory.uncovered}
    assert all(entry.macs == 0 and "computed once" in entry.reason for entry in inventory.uncovered)
    assert (inventory.macs == count_macs(module, images[:1])) == (not once)
    assert inventory.macs == count_macs(model, images[:1])
    with torch.no_grad():
        torch.testing.assert_close(model(images), module(images), rtol=1e-4, atol=1e-5)
        for tapped in model.tapped.values():
            tapped.functions.update(dict.fromkeys(tapped.slots, lambda x: x))
        torch.testing.assert_close(model(images), module(images), rtol=1e-4, atol=1e-5)
    assert Inventory.from_dict(json.loads(json.dumps(inventory.to_dict()))) == inventory


class Mixing(nn.Module):
    """An MLP with something else around it."""

    def __init__(self, mlp: nn.Module, how: str) -> None:
        super().__init__()
        self.mlp, self.how, self.matrix = mlp, how, nn.Parameter(torch.randn(32, 32))
        self.heads, self.row = nn.MultiheadAttention(32, 2, batch_first=True), nn.Conv1d(32, 32, 3, padding=1)
        self.latent, self.gate = nn.Parameter(torch.randn(1, 32)), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = HOW[self.how](self, x)
        return y


HOW: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "raw matrix": lambda m, x: F.linear(m.mlp(x), m.matrix),
    "matrix behind": lambda m, x: m.mlp(x) @ m.matrix,
    "attends": lambda m, x: m.heads(m.mlp(x), x, x)[0],
    "attends itself": lambda m, x: m.heads(x, x, x, need_weights=False)[0] + m.mlp(x),
    "convolves": lambda m, x: m.row(m.mlp(x).mT).mT,
    "products": lambda m, x: m.mlp(x) @ x.mT @ x,
    "einsum": lambda m, x: torch.einsum("bnc,bmc->bnm", m.mlp(x), x) @ x,
    "vector": lambda m, x: m.mlp(x) * m.gate(x[0, 0]),
    "twice": lambda m, x: torch.cat([m.mlp(x[:, :3]), m.mlp(x[:, 3:])], 1),
    "by name": lambda m, x: m.mlp.fc2(input=m.mlp.act(m.mlp.fc1(input=x))),
    "in place": lambda m, x: m.mlp(x).mul_(2).add_(x),
}
#: components beside those of the MLP
MORE = {
    "raw matrix": {"matrix.weight", "matrix.input"},
    "matrix behind": {"matrix.weight", "matrix.input"},
    "convolves": {"row.weight", "row.input"},
    "products": {"product.left", "product.right", "product:2.left", "product:2.right"},
    "vector": {"gate.weight", "gate.input"},
    "attends itself": {
        f"heads.{n}" for n in ("in_proj.weight", "in_proj.input", "q", "k", "softmax", "v", "out_proj.weight", "out_proj.input")
    },
}


@pytest.mark.parametrize("how", HOW)
def test_products_are_found_however_they_are_written(how: str) -> None:
    module: Any = make_tiny()
    module.blocks[0].mlp = Mixing(module.blocks[0].mlp, how)
    images = torch.randn(3, 3, 32, 32)
    model, inventory = analyse(module.eval(), IMAGE)
    assert inventory.macs == inventory.total_macs == count_macs(module, IMAGE)
    assert inventory.uncovered == ()
    with torch.no_grad():
        torch.testing.assert_close(model(images), module(images), rtol=1e-4, atol=1e-4)
    if how in MORE:
        names = {name.removeprefix("blocks.0.mlp.") for name in inventory.names if name.startswith("blocks.0.mlp.")}
        assert {name for name in names if not name.startswith("mlp.")} == MORE[how]


def test_what_is_the_same_for_all_images_is_computed_once_and_named() -> None:
    module: Any = make_tiny()
    _, whole = analyse(module, IMAGE)

    class Latent(nn.Module):
        def __init__(self, mlp: nn.Module) -> None:
            super().__init__()
            self.mlp, self.latent, self.gate = mlp, nn.Parameter(torch.randn(1, 32)), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.mlp(x) * self.gate(self.latent)
            return y

    module.blocks[0].mlp = Latent(module.blocks[0].mlp)
    model, inventory = analyse(module, IMAGE)
    assert [str(entry) for entry in inventory.uncovered] == ["blocks.0.mlp.gate: the same for all images: computed once"]
    assert inventory.macs == inventory.total_macs == whole.macs == count_macs(module, IMAGE) - 32
    assert "blocks.0.mlp.gate.folded" in dict(model.named_parameters())


def test_the_models_own_products_are_the_models() -> None:
    class Top(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit, self.classes = make_tiny(num_classes=0), nn.Parameter(torch.randn(5, 32))

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x) @ self.classes.T

    _, inventory = analyse(Top().eval(), IMAGE)
    assert next(o.macs for o in inventory.operators if o.name == "classes") == 160
    assert inventory["classes.weight"].kind == "head"


def test_inventories_of_old_are_read() -> None:
    data = analyse(make_tiny(), IMAGE)[1].to_dict()
    del data["total_macs"]
    for component in data["components"]:
        del component["same"]
    found = Inventory.from_dict(data | {"uncovered": ["blocks.0.pool: no rule for Conv1d"]})
    assert [str(entry) for entry in found.uncovered] == ["blocks.0.pool: no rule for Conv1d"]
    assert found.uncovered[0].module == "blocks.0.pool"
    assert (found.total_macs, found.covered_share) == (0, None)


def test_the_models_settings_are_as_before() -> None:
    model: Any = make_tiny()
    model.blocks[0].attn.fused_attn = True
    model.head.weight.requires_grad_(False)
    analyse(model, IMAGE)
    assert model.blocks[0].attn.fused_attn
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.weight"]
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
