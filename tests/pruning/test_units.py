"""What can be removed is read off the graph, and tried: gates, separate queries and keys, rotated ones, and what refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pmq
from pmq.core import PmqError
from pmq.core.pruning import PruningPlan
from pmq.pruning import IMPORTANCES, apply_plan, find_units, provable_units
from pmq.pruning.proof import _mask
from tests.conftest import make_tiny

IMAGES = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Separate(nn.Module):
    """An attention as many write it: layers of its own for queries, keys and values, the keys without bias."""

    def __init__(self, width: int = 32, heads: int = 4, own_width: int | None = None) -> None:
        super().__init__()
        self.query, self.value, self.out = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.num_attention_heads, self.attention_head_size, self.own = heads, width // heads, own_width

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            part(x).view(b, n, self.num_attention_heads, self.attention_head_size).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = (q @ k.transpose(-1, -2) / self.attention_head_size**0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, n, self.own or self.num_attention_heads * self.attention_head_size))


class Gated(nn.Module):
    """An MLP with a gate, its two halves from layers of their own."""

    def __init__(self, width: int = 32, hidden: int = 48) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Own(nn.Module):
    """A small vision transformer of one's own."""

    def __init__(self, own_width: int | None = None) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 32, 8, 8), nn.Linear(32, 5)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4))
        self.attn = nn.ModuleList(Separate(own_width=own_width) for _ in range(2))
        self.mlp = nn.ModuleList(Gated() for _ in range(2))
        self.num_classes, self.img_size = 5, 32

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for i, (attn, mlp) in enumerate(zip(self.attn, self.mlp, strict=True)):
            x = x + attn(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(x.mean(1))


def own(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return Own(**options).eval()


def test_gates_and_separate_queries_keys_and_values_are_found() -> None:
    units = {unit.name: unit for unit in provable_units(own()).units}
    assert list(units) == ["attn.0", "mlp.0", "attn.1", "mlp.1"]
    assert list(units["mlp.0"].makers) == ["mlp.0.gate", "mlp.0.up"]
    assert (units["attn.1"].size, units["attn.1"].heads, units["attn.1"].whole_heads_only) == (32, 4, False)
    assert [name for name, _ in units["attn.1"].operands] == ["attn.1.query", "attn.1.key", "attn.1.value"]


@pytest.mark.parametrize("channels", [range(16), [h * 8 + i for h in range(4) for i in (1, 3, 4, 6)]])
def test_what_is_cut_computes_as_if_nobody_read_it(channels: Any) -> None:
    model, units = own(), {unit.name: unit for unit in find_units(own()).units}
    kept = {"attn.0": units["attn.0"].keeping(channels), "mlp.1": units["mlp.1"].keeping(range(7, 31))}
    wanted = own()
    for name, pruned in kept.items():
        with torch.no_grad():
            _mask(wanted, units[name], pruned)
    pruned = apply_plan(model, PruningPlan(importance="x", recovered=False, units=kept))
    assert model.mlp[1].gate.out_features == model.mlp[1].down.in_features == 24
    torch.testing.assert_close(pruned(IMAGES), wanted(IMAGES))
    assert (pruned(IMAGES) - own()(IMAGES)).abs().max() > 1e-3


@pytest.mark.parametrize("importance", [name for name in IMPORTANCES if name != "random"])
def test_such_models_are_pruned_and_made_good(importance: str) -> None:
    if importance != "reconstruction":
        pytest.importorskip("torch_pruning")
    structures = ("hidden", "rank") if importance == "reconstruction" else ("hidden", "width")
    found = pmq.prune(own(), IMAGES, ratio=0.5, importance=importance, structures=structures, round_to=4)
    smaller = pmq.load_pruned(found.allocation, own())
    assert smaller.get_submodule("mlp.0.up").weight.shape == (24, 32)
    assert smaller.get_submodule("attn.0.key").weight.shape == (16, 32)
    logits = own()(IMAGES)
    before = pmq.load_pruned(found.cut, own())(IMAGES)
    assert (smaller(IMAGES) - logits).norm() < (before - logits).norm() < logits.norm()


def test_a_packed_gate_is_cut_in_both_halves() -> None:
    from timm.layers import SwiGLUPacked

    model = make_tiny(mlp_layer=SwiGLUPacked)
    units = {unit.name: unit for unit in provable_units(model).units}
    unit = units["blocks.0.mlp"]
    assert unit.size == model.blocks[0].mlp.fc2.in_features
    assert model.blocks[0].mlp.fc1.out_features == 2 * unit.size
    apply_plan(model, PruningPlan(importance="x", recovered=False, units={unit.name: unit.keeping(range(24))}))
    assert model.blocks[0].mlp.fc1.out_features == 48
    assert model(IMAGES).shape == (12, 7)


def test_heads_whose_queries_are_rotated_go_as_a_whole() -> None:
    from timm.models import Eva

    torch.manual_seed(0)
    model = Eva(32, 8, 3, 5, embed_dim=32, depth=2, num_heads=2, use_rot_pos_emb=True, swiglu_mlp=True).eval()
    found = find_units(model)
    assert {unit.name: unit.whole_heads_only for unit in found.units if unit.kind == "attention"} == {
        "blocks.0.attn": True,
        "blocks.1.attn": True,
    }


def test_what_computes_with_a_width_of_its_own_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    model = own(own_width=32)
    units = provable_units(model)
    assert [unit.name for unit in units.units] == ["mlp.0", "mlp.1"]
    assert "computes with a fixed width" in units.refused["attn.0"]
    pmq.prune(model, IMAGES, ratio=0.5, importance="reconstruction")
    assert "not pruned: 'attn.0' and 1 more like it: it computes with a fixed width" in capsys.readouterr().err
    with pytest.raises(PmqError, match="nothing to prune by heads"):
        pmq.prune(model, IMAGES, structures=("heads",))


def test_a_norm_over_all_hidden_channels_is_told() -> None:
    refused = find_units(make_tiny(mlp_layer=_Normed)).refused
    assert refused["blocks.0.mlp.fc2"] == "layer_norm in 'blocks.0.mlp.norm' mixes channels"


class _Normed(nn.Module):
    def __init__(self, in_features: int, hidden_features: int, **_: Any) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(in_features, hidden_features), nn.Linear(hidden_features, in_features)
        self.norm = nn.LayerNorm(hidden_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(nn.functional.gelu(self.fc1(x))))
