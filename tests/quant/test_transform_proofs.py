"""A transform that would change what a model computes is undone and told, whatever the architecture."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pmq
from pmq.core.recipe import RECIPES
from pmq.graph import captured
from pmq.models.equivalence import TOLERANCE, Equivalence
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.quant.transforms import Setting, apply_transforms
from tests.conftest import make_tiny

ORDER = RECIPES["best"].transforms
SMALL: dict[str, dict[str, Any]] = {
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 2},
    "vit_small_patch16_dinov3": {"img_size": 32, "depth": 2, "embed_dim": 96, "num_heads": 2},
    "vit_dlittle_patch16_reg1_gap_256": {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 2},
    "xcit_nano_12_p16_224": {"img_size": 32, "depth": 2},
    "nest": {"img_size": 32, "embed_dims": (32, 48, 64), "num_heads": (1, 2, 4), "depths": (1, 1, 1)},
    "vit_base_patch16_rpn_224": {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2},
    "cait_xxs24_224": {"img_size": 32, "depth": 2},
    "beit_base_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2},
    "maxvit_pico_rw_256": {"img_size": 64, "depths": (1, 1), "embed_dim": (32, 64)},
    "vitamin_small_224": {"img_size": 32, "depth": 1},
    "swinv2_tiny_window8_256": {"img_size": 64, "depths": (1, 1), "num_heads": (2, 4), "embed_dim": 32},
}


def perturbed(model: nn.Module) -> nn.Module:
    """Evaluation mode, and norms and biases that are not what they begin with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("name", SMALL)
def test_no_architecture_computes_something_else_afterwards(name: str) -> None:
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    options = SMALL[name]
    make = timm.models.nest.Nest if name == "nest" else partial(timm.create_model, name)
    model = perturbed(make(num_classes=5, **options))
    images = torch.randn(4, 3, options["img_size"], options["img_size"])
    original = copy.deepcopy(model).double()
    with torch.no_grad():
        wanted = original(images.double())
        equivalence, model = Equivalence(model, images), captured(model, images[:1])
        found = apply_transforms(model, ORDER, Setting(images), equivalence)
        error = (model.double()(images.double()) - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert [rewriting.name for rewriting in found] == list(ORDER)
    assert float(error.max()) <= TOLERANCE
    assert all(rewriting.kept for rewriting in found)


class HeadsFirst(nn.Module):
    """An attention whose ``qkv`` is laid out head by head, which looks like timm's from outside."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.qkv, self.proj, self.attn_drop = original.qkv, original.proj, original.attn_drop
        self.q_norm, self.k_norm, self.norm, self.proj_drop = (nn.Identity() for _ in range(4))
        self.num_heads, self.scale, self.fused_attn = original.num_heads, original.scale, False

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, self.num_heads, -1).transpose(1, 2).chunk(3, -1)
        attn = self.attn_drop((q * self.scale @ k.mT).softmax(-1))
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))


def misread() -> nn.Module:
    model = perturbed(make_tiny())
    for block in model.blocks:
        block.attn = HeadsFirst(block.attn)
    return model


def test_what_is_undone_is_told_and_leaves_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    model, images = make_tiny(), torch.randn(4, 3, 32, 32)
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.blocks[0].attn.proj.bias = None
    del before["blocks.0.attn.proj.bias"]

    def wrong() -> None:
        with torch.no_grad():
            model.head.weight.mul_(1.001)
            model.blocks[0].attn.proj.bias = nn.Parameter(torch.ones(32))

    found = Equivalence(model, images).apply("wrong", model, wrong)
    assert not found.kept
    assert found.error > TOLERANCE
    assert {name: True for name in before} == {n: torch.equal(p, before[n]) for n, p in model.named_parameters()}
    assert model.blocks[0].attn.proj.bias is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("wrong would change the outputs of this model")


class Magnifying(nn.Module):
    """Loses most digits of a layer's output to rounding, in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 5)
        self.register_buffer("large", torch.tensor(2.0**14))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)) + self.large - self.large


@pytest.mark.parametrize(("factor", "kept"), [(1 + 1e-5, True), (1.001, False)])
def test_a_small_error_is_told_from_rounding(factor: float, kept: bool) -> None:
    """In single precision a model that magnifies rounding looks as wrong as one that is."""
    torch.manual_seed(0)
    model, images = Magnifying(), torch.randn(4, 3, 2, 2)
    with torch.no_grad():
        found = Equivalence(model, images).apply("scaling", model, lambda: model.layer.weight.mul_(factor))
        rounding = (model(images) - model.double()(images.double())).abs().max()
    assert float(rounding) > TOLERANCE
    assert found.kept == kept


@pytest.mark.usefixtures("shallow")
def test_a_search_never_runs_on_another_model(tmp_path: Path) -> None:
    model, images = misread(), torch.randn(16, 3, 32, 32)
    result = pmq.search(
        model,
        images,
        "w8a8",
        space="w4a8",
        out=tmp_path / "run",
        options=pmq.SearchOptions(n_rounds=1),
        split=pmq.DataSplit(n_calibration=4, n_held_out=12),
    )
    undone = {rewriting.name for rewriting in result.rewritings if not rewriting.kept}
    assert undone <= {"rotate_heads", "center_values"}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert {t["name"]: t["kept"] for t in manifest["transforms"]} == {name: name not in undone for name in ORDER}
    with torch.no_grad():
        simulated, exact = pmq.simulate(model, result.allocation)(images), model(images)
    assert float(((simulated - exact).norm(dim=1) / exact.norm(dim=1)).max()) < 0.2


def test_rotating_heads_that_are_laid_out_otherwise_changes_nothing() -> None:
    model, images = misread(), torch.randn(4, 3, 32, 32)
    setting = Setting(images)
    with torch.no_grad():
        wanted = model(images)
        equivalence, model = Equivalence(model, images), captured(model, images[:1])
        (found,) = apply_transforms(model, ("rotate_heads",), setting, equivalence)
        assert found.kept
        torch.testing.assert_close(model(images), wanted)
