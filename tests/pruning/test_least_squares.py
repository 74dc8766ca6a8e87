"""Recovery in closed form, and heads of lower rank."""

from __future__ import annotations

import copy

import torch

from pmq.core.pruning import PrunedUnit, PruningPlan
from pmq.pruning import IMPORTANCES, apply_plan, least_squares_reconstruction, prunable_units, rotate_to_principal_axes, select
from pmq.pruning.losses import row_weights
from tests.conftest import make_tiny

IMAGES = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def error(exact: torch.nn.Module, model: torch.nn.Module) -> float:
    with torch.no_grad():
        p, q = exact(IMAGES[24:]).log_softmax(-1), model(IMAGES[24:]).log_softmax(-1)
    return float((p.exp() * (p - q)).sum())


def test_recovery_takes_back_much_of_the_error_on_other_images() -> None:
    model = make_tiny()
    units = [u for u in prunable_units(model) if u.kind == "hidden"]
    weights = row_weights(model, [u.last for u in units], IMAGES[:24])
    scores = IMPORTANCES["random"].score(model, units, IMAGES[:24])
    plan = PruningPlan(importance="random", recovered=True, units=select(units, scores, 0.3))
    pruned = apply_plan(copy.deepcopy(model), plan)
    before = error(model, pruned)
    least_squares_reconstruction(model, pruned, plan, IMAGES[:24], weights)
    assert error(model, pruned) < 0.75 * before


def test_channels_that_say_the_same_are_replaced_by_each_other() -> None:
    model = make_tiny()
    mlp = model.blocks[0].mlp
    with torch.no_grad():  # the second half repeats the first
        mlp.fc1.weight[64:], mlp.fc1.bias[64:] = mlp.fc1.weight[:64], mlp.fc1.bias[:64]
    units = {"blocks.0.mlp": PrunedUnit.of("hidden", 128, range(64))}
    plan = PruningPlan(importance="magnitude", recovered=True, units=units)
    pruned = apply_plan(copy.deepcopy(model), plan)
    before = error(model, pruned)
    least_squares_reconstruction(model, pruned, plan, IMAGES[:24], strength=1e-6)
    assert error(model, pruned) < 1e-4 * before


def test_row_weights_know_that_the_end_reads_the_class_token_alone() -> None:
    model = make_tiny()
    weights = row_weights(model, ["blocks.0.mlp.fc2", "blocks.1.mlp.fc2"], IMAGES[:8])
    assert weights["blocks.1.mlp.fc2"].shape == (8, 17)
    others = weights["blocks.1.mlp.fc2"][:, 1:]
    assert (weights["blocks.1.mlp.fc2"][:, 0] > others.max()).all()
    assert float(others.std()) < 1e-6 < float(weights["blocks.0.mlp.fc2"][:, 1:].std())


def test_concentrating_heads_changes_nothing_but_where_it_is() -> None:
    model = make_tiny()
    units = [u for u in prunable_units(model) if u.kind == "attention"]
    mixed = copy.deepcopy(model)
    scores = rotate_to_principal_axes(mixed, units, IMAGES[:24])
    torch.testing.assert_close(mixed(IMAGES), model(IMAGES), rtol=1e-3, atol=1e-3)
    for score in scores.values():
        by_head = score.reshape(2, -1)
        assert (by_head.diff(dim=1) <= 1e-12).all()
    kept = select(units, scores, 0.5, ("rank",), round_to=1)
    chance = select(units, {u.name: torch.rand(u.size) for u in units}, 0.5, ("width",), round_to=1)
    made = [
        apply_plan(copy.deepcopy(m), PruningPlan(importance="x", recovered=False, units=units))
        for m, units in ((mixed, kept), (model, chance))
    ]
    assert error(model, made[0]) < 0.5 * error(model, made[1])


def test_heads_of_low_rank_lose_nothing() -> None:
    model = make_tiny()
    attention = model.blocks[0].attn
    with torch.no_grad():  # each head's q, k and v have rank 4, in no channels of their own
        turn = torch.randn(16, 4) @ torch.randn(4, 16) / 4
        rows = attention.qkv.weight.unflatten(0, (3, 2, 16))
        attention.qkv.weight.copy_((turn @ rows).flatten(0, 2))
        attention.qkv.bias.zero_()
    unit = next(u for u in prunable_units(model) if u.name == "blocks.0.attn")
    mixed = copy.deepcopy(model)
    scores = rotate_to_principal_axes(mixed, [unit], IMAGES[:24])
    plan = PruningPlan(importance="x", recovered=False, units=select([unit], scores, 0.75, ("rank",), round_to=1))
    pruned = apply_plan(mixed, plan)
    assert pruned.blocks[0].attn.head_dim == 4
    torch.testing.assert_close(pruned(IMAGES), model(IMAGES), rtol=1e-2, atol=1e-2)
