"""Tokens that are left out of a model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pmq.graph import analyse
from pmq.graph.token_skipping import skip_tokens, tokenwise_units
from pmq.models.torchvision_ops import ensure_torchvision
from tests.conftest import make_tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_finds_attentions_and_mlps() -> None:
    units = tokenwise_units(*analyse(make_tiny(), IMAGES[:1]))
    assert [(u.module, u.kind, len(u.activations), u.n_tokens) for u in units] == [
        (f"blocks.{block}.{part}", kind, size, 17)
        for block in (0, 1)
        for part, kind, size in (("attn", "attention", 3), ("mlp", "mlp", 2))
    ]


@pytest.mark.parametrize("qk_norm", [False, True])
def test_what_only_patches_read_changes_nothing(qk_norm: bool) -> None:
    model, inventory = analyse(make_tiny(qk_norm=qk_norm), IMAGES[:1])
    shorter = copy.deepcopy(model)
    for unit in tokenwise_units(model, inventory)[-2:]:
        skip_tokens(shorter, unit, [0])
    with torch.no_grad():
        torch.testing.assert_close(shorter(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)


def test_tokens_left_out_get_the_bias_alone() -> None:
    module = make_tiny()
    block = module.blocks[0]
    model, inventory = analyse(module, IMAGES[:1])
    x = torch.randn(2, 17, 32)
    attended = block.attn(block.norm1(x))
    attended[:, [1, 5]] = block.attn.proj.bias
    wanted = x + attended
    mixed = block.mlp(block.norm2(wanted))
    mixed[:, [1, 5]] = block.mlp.fc2.bias
    kept = [t for t in range(17) if t not in (1, 5)]
    for unit in tokenwise_units(model, inventory)[:2]:
        skip_tokens(model, unit, kept)
    torch.testing.assert_close(model.run(x, 1, 2), wanted + mixed, rtol=1e-4, atol=1e-4)


class Elsewhere(nn.Module):
    """Gives an MLP its tokens in two calls, or as a batch."""

    def __init__(self, mlp: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how = mlp, how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "twice":
            return torch.cat([self.inner(x[:, :5]), self.inner(x[:, 5:])], 1)
        return self.inner(x.flatten(0, 1)[:, None]).reshape(x.shape)


@pytest.mark.parametrize("how", ["twice", "batch"])
def test_rows_of_several_calls_or_of_a_batch_are_not_left_out(how: str) -> None:
    model = make_tiny()
    model.blocks[0].mlp = Elsewhere(model.blocks[0].mlp, how)
    units = tokenwise_units(*analyse(model, IMAGES[:1]))
    assert [u.module for u in units] == ["blocks.0.attn", "blocks.1.attn", "blocks.1.mlp"]


def test_windows_have_mlps_alone() -> None:
    ensure_torchvision()
    import timm

    options = {"img_size": 56, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2), "num_classes": 7}
    module: nn.Module = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, **options).eval()
    image = torch.randn(2, 3, 56, 56)
    model, inventory = analyse(module, image[:1])
    units = tokenwise_units(model, inventory)
    assert [u.module.rpartition(".")[2] for u in units] == ["mlp", "mlp"]
    assert units[0].n_tokens == 196
    mlp = module.get_submodule(units[0].module)

    def without(_: nn.Module, args: object, y: torch.Tensor) -> torch.Tensor:
        y = y.clone()
        y[:, 3] = mlp.fc2.bias
        return y

    mlp.register_forward_hook(without)
    skip_tokens(model, units[0], [t for t in range(196) if t != 3])
    with torch.no_grad():
        torch.testing.assert_close(model(image), module(image))
