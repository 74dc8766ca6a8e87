"""Plans and what they do to a model."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from pmq.core import PmqError
from pmq.core.allocation import validated
from pmq.core.pruning import PrunedUnit, PruningPlan
from pmq.models import create_model
from pmq.pruning import apply_plan, plan_of, prunable_units
from pmq.pruning.apply import check_stream
from tests.conftest import make_tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def plan(**units: PrunedUnit) -> PruningPlan:
    return PruningPlan(importance="magnitude", recovered=False, units={n.replace("__", "."): u for n, u in units.items()})


def hidden(*kept: int) -> PrunedUnit:
    return PrunedUnit.of("hidden", 128, kept)


def attention(*kept: int) -> PrunedUnit:
    return PrunedUnit.of("attention", 32, kept, heads=2)


def test_indices_are_written_as_ranges() -> None:
    unit = hidden(7, 0, 1, 2, 5)
    assert unit.kept == "0-2,5,7"
    assert unit.indices == [0, 1, 2, 5, 7]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kept": "3-1"}, "rise"),
        ({"kept": "0,0"}, "rise"),
        ({"kept": "0-128"}, "below the size"),
        ({"kept": ""}, "pattern"),
        ({"kept": "0-5", "heads": 2, "size": 8, "kind": "attention"}, "equally many"),
        ({"kept": "0", "kind": "tail"}, "kind"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(PmqError, match=said):
        validated(PrunedUnit, {"kind": "hidden", "size": 128} | fields, "unit")


def masked(model: nn.Module, layer: str, kept: list[int]) -> nn.Module:
    """The same model whose layer does not read other inputs."""
    model = copy.deepcopy(model)
    weight = model.get_submodule(layer).weight
    gone = [i for i in range(weight.shape[1]) if i not in kept]
    with torch.no_grad():
        weight[:, gone] = 0
    return model


@pytest.mark.parametrize("fused", [False, True])
def test_hidden_channels_and_heads_go_as_if_nobody_read_them(fused: bool) -> None:
    model = make_tiny()
    for block in model.blocks:
        block.attn.fused_attn = fused
    kept, second = list(range(0, 128, 3)), list(range(16, 32))
    wanted = masked(masked(model, "blocks.0.mlp.fc2", kept), "blocks.1.attn.proj", second)
    pruned = apply_plan(copy.deepcopy(model), plan(blocks__0__mlp=hidden(*kept), blocks__1__attn=attention(*second)))
    assert pruned.blocks[0].mlp.fc1.weight.shape == (43, 32)
    assert (pruned.blocks[1].attn.num_heads, pruned.blocks[1].attn.attn_dim) == (1, 16)
    torch.testing.assert_close(pruned(IMAGES), wanted(IMAGES))


@pytest.mark.parametrize("fused", [False, True])
def test_narrower_heads_keep_the_scale_of_their_products(fused: bool) -> None:
    model = make_tiny()
    kept = [0, 1, 2, 9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 21, 22, 30]  # 8 of each head, not the same ones
    wanted = masked(model, "blocks.0.attn.proj", kept)
    with torch.no_grad():
        gone = torch.tensor([i for i in range(32) if i not in kept])
        wanted.blocks[0].attn.qkv.weight[:32][gone] = 0
        wanted.blocks[0].attn.qkv.bias[:32][gone] = 0
    pruned = apply_plan(model, plan(blocks__0__attn=attention(*kept)))
    for m in (wanted, pruned):
        m.blocks[0].attn.fused_attn = fused
    assert (pruned.blocks[0].attn.num_heads, pruned.blocks[0].attn.head_dim) == (2, 8)
    torch.testing.assert_close(pruned(IMAGES), wanted(IMAGES))


def test_swin_loses_heads_with_their_position_biases() -> None:
    model = create_model("swin_tiny_patch4_window7_224", pretrained=False)
    unit = PrunedUnit.of("attention", 96, range(32, 96), heads=3)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted = masked(model, "layers.0.blocks.1.attn.proj", unit.indices)(x)
        pruned = apply_plan(copy.deepcopy(model), plan(layers__0__blocks__1__attn=unit))
        assert pruned.layers[0].blocks[1].attn.relative_position_bias_table.shape[1] == 2
        torch.testing.assert_close(pruned(x), wanted)


def test_a_residual_stream_gets_narrower() -> None:
    pruned = apply_plan(make_tiny(), plan(patch_embed__proj=PrunedUnit.of("embedding", 32, range(24))))
    assert pruned.blocks[1].mlp.fc2.weight.shape == (24, 128)
    assert pruned.pos_embed.shape[-1] == pruned.cls_token.shape[-1] == pruned.embed_dim == 24
    assert pruned(IMAGES).shape == (3, 7)


def test_a_plan_for_another_model_is_refused() -> None:
    for other in (
        plan(blocks__0__mlp=PrunedUnit.of("hidden", 64, [0])),
        plan(blocks__7__mlp=hidden(0)),
        plan(blocks__0__attn=PrunedUnit.of("attention", 32, range(8), heads=4)),
    ):
        model = make_tiny()
        with pytest.raises(PmqError, match="belongs to another model"):
            apply_plan(model, other)
        assert model.blocks[0].mlp.fc1.out_features == 128
        assert plan_of(model) is None
    once = apply_plan(make_tiny(), plan(blocks__0__mlp=hidden(0)))
    with pytest.raises(PmqError, match="pruned already"):
        apply_plan(once, plan(blocks__1__mlp=hidden(0)))


def test_units_are_what_can_be_pruned() -> None:
    units = {unit.name: unit for unit in prunable_units(make_tiny(), embedding=True)}
    assert set(units) == {"blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp", "patch_embed.proj"}
    normed = prunable_units(make_tiny(qk_norm=True))
    assert [unit.whole_heads_only for unit in normed] == [True, False, True, False]
    assert len(prunable_units(create_model("swin_tiny_patch4_window7_224", pretrained=False))) == 24
    relative = prunable_units(create_model("vit_relpos_small_patch16_224", pretrained=False))
    assert {unit.kind for unit in relative} == {"hidden"}  # its attentions are of another kind, its tables no MLPs of blocks


@pytest.mark.parametrize(
    ("options", "why"),
    [({"global_pool": "map", "class_token": False}, "invalid for input"), ({"identity": True}, "no ViT whose patches one layer")],
)
def test_streams_that_cannot_be_narrowed_are_told_beforehand(options: dict[str, object], why: str) -> None:
    pytest.importorskip("torch_pruning")
    identity = options.pop("identity", False)
    model = make_tiny(**options)
    if identity:
        model.patch_embed = nn.Sequential(OrderedDict(backbone=nn.Conv2d(3, 32, 8, 8), proj=nn.Identity()))
    with pytest.raises(PmqError, match=f"cannot be narrowed: .*{why}.*; drop structure 'embedding'"):
        check_stream(model)


def test_streams_that_can_be_narrowed_stay_as_they_are() -> None:
    pytest.importorskip("torch_pruning")
    model = make_tiny()
    check_stream(model)
    assert model.head.in_features == 32
