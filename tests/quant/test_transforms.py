"""Every transform leaves the outputs of every model as they are; and does what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pmq.graph import CapturedModel, captured
from pmq.models import create_model
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.quant.transforms import TRANSFORMS, Setting
from pmq.quant.transforms.structure import norm_pairs
from tests.conftest import make_tiny

MODELS = (
    *("vit", "distilled", "registers, scaled, averaged", "normed", "no bias", "headless"),
    *("swin", "swin, padded windows", "embedded", "constant channels"),
)


def captured_of(name: str) -> tuple[CapturedModel, torch.Tensor]:
    """The same, captured."""
    module, images = make(name)
    return captured(module, images[:1]), images


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    options = {
        "registers, scaled, averaged": {"init_values": 0.1, "reg_tokens": 2, "global_pool": "avg"},
        "normed": {"qk_norm": True},
        "no bias": {"qkv_bias": False},
        "headless": {"num_classes": 0},
    }
    shape = (3, 32, 32)
    if name.startswith("swin"):
        size = 64 if "padded" in name else 56
        swin = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5, "window_size": 7}
        model, shape = timm.create_model("swin_tiny_patch4_window7_224", img_size=size, **swin), (3, size, size)
    elif name == "distilled":
        deit = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
        model = timm.create_model("deit_tiny_distilled_patch16_224", **deit)
    elif name == "embedded":
        model, shape = create_model(), (1, 28, 28)
    else:
        model = make_tiny(**options.get(name, {}))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn_like(p))
        if name == "constant channels":
            for norm in (m for m in model.modules() if isinstance(m, nn.LayerNorm)):
                norm.weight[::3] = 0
                norm.bias[::6] = 0
    return model.eval(), torch.randn(6, *shape)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_outputs_stay(name: str) -> None:
    model, images = captured_of(name)
    wanted = model(images)
    before = {n: p.clone() for n, p in model.named_parameters()}
    order = ("fold_norms", "rotate_residual", "rotate_heads", "scale_channels", "center_channels", "center_values")
    assert set(order) == set(TRANSFORMS)
    for transform in order:
        TRANSFORMS[transform](model, Setting(images))
        torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=2e-5)
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@torch.no_grad()
def test_rotation_evens_an_outlying_channel_and_needs_folded_norms() -> None:
    model, images = captured_of("vit")
    for block in (0, 1):
        model.get_submodule(f"blocks.{block}.mlp.fc2").bias[3] += 30.0
    first = {n: p.clone() for n, p in model.named_parameters()}
    TRANSFORMS["rotate_residual"](model, Setting(images))
    assert all(torch.equal(p, first[n]) for n, p in model.named_parameters())
    TRANSFORMS["fold_norms"](model, Setting(images))
    peaks = []
    for _ in range(2):
        seen = []
        qkv = model.get_submodule("blocks.1.attn.qkv")
        handle = qkv.register_forward_hook(lambda m, args, y, kept=seen: kept.append(args[0]))
        model(images)
        handle.remove()
        peaks.append(float(seen[0].abs().max()))
        TRANSFORMS["rotate_residual"](model, Setting(images))
    assert peaks[1] < 0.7 * peaks[0]


@torch.no_grad()
def test_channels_become_centred_and_even() -> None:
    model, images = captured_of("vit")
    for pair in norm_pairs(model):
        pair.norm.weight[5] *= 50
        pair.norm.bias[7] += 9
    for transform in ("scale_channels", "center_channels"):
        TRANSFORMS[transform](model, Setting(images))
    for pair in norm_pairs(model)[:-1]:  # the last is read at the class token alone
        seen = []
        handle = pair.readers[0].layer.register_forward_hook(lambda m, args, y, kept=seen: kept.append(args[0].flatten(0, -2)))
        model(images)
        handle.remove()
        assert float(seen[0].mean(0).abs().max()) < 1e-3
        spread = seen[0].std(0)
        assert float(spread.max() / spread.median()) < 2


def test_other_seeds_rotate_otherwise() -> None:
    weights = []
    for seed in (0, 0, 1):
        model, images = captured_of("vit")
        for transform in ("fold_norms", "rotate_residual", "rotate_heads"):
            with torch.no_grad():
                TRANSFORMS[transform](model, Setting(images, seed))
        weights.append(model.get_submodule("blocks.0.mlp.fc1").weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])
