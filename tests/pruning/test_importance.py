"""Importances and the choice by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pmq.core import PmqError
from pmq.pruning import IMPORTANCES, prunable_units, select
from pmq.pruning.reconstruction import elimination
from tests.conftest import make_tiny

IMAGES = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["magnitude", "magnitude_l1", "taylor", "hessian", "random", "reconstruction"])
def test_every_importance_scores_every_channel(name: str) -> None:
    model = make_tiny()
    units, before = prunable_units(model), {n: p.clone() for n, p in model.named_parameters()}
    scores = IMPORTANCES[name].score(model, units, IMAGES)
    again = IMPORTANCES[name].score(model, units, IMAGES)
    for unit in units:
        assert scores[unit.name].shape == (unit.size,)
        assert (scores[unit.name] >= 0).all()
        assert scores[unit.name].std() > 0
        assert torch.equal(scores[unit.name], again[unit.name])
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["magnitude", "magnitude_l1", "taylor", "hessian", "reconstruction"])
def test_what_does_nothing_matters_least(name: str) -> None:
    model = make_tiny()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[5] = 0
        model.blocks[0].mlp.fc1.bias[5] = 0
        model.blocks[0].mlp.fc2.weight[:, 5] = 0
    scores = IMPORTANCES[name].score(model, prunable_units(model), IMAGES)
    assert int(scores["blocks.0.mlp"].argmin()) == 5


def test_taylor_and_hessian_know_more_than_chance() -> None:
    """The loss of removing a channel, measured, against what is said of it."""
    model = make_tiny()
    unit = next(u for u in prunable_units(model) if u.name == "blocks.0.mlp")
    with torch.no_grad():
        exact = model(IMAGES).log_softmax(-1)
        fc2, measured = model.blocks[0].mlp.fc2.weight, []
        for channel in range(unit.size):
            column = fc2[:, channel].clone()
            fc2[:, channel] = 0
            measured.append(float((exact.exp() * (exact - model(IMAGES).log_softmax(-1))).sum()))
            fc2[:, channel] = column
    ranks = np.argsort(np.argsort(measured))
    for name, least in (("hessian", 0.3), ("taylor", 0.1), ("random", -0.3)):
        score = IMPORTANCES[name].score(model, [unit], IMAGES)[unit.name].numpy()
        correlation = np.corrcoef(ranks, np.argsort(np.argsort(score)))[0, 1]
        assert correlation > least, (name, correlation)


def test_elimination_costs_what_least_squares_leave() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator, dtype=torch.double)
    x = x + 0.7 * x[:, :1]  # they say much of each other
    x -= x.mean(0)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.double)
    errors = elimination(x.T @ x / len(x), weight)
    order = errors.argsort()
    for gone in (1, 3, 5):
        stay = order[gone:]
        fitted = torch.linalg.lstsq(x[:, stay], x @ weight.T).solution
        left = float((x[:, stay] @ fitted - x @ weight.T).square().sum(1).mean())
        assert float(errors[order[gone - 1]]) == pytest.approx(left, rel=0.2)


def test_uniform_ratios_round_widths() -> None:
    model = make_tiny()
    units = prunable_units(model)
    scores = IMPORTANCES["magnitude"].score(model, units, IMAGES)
    found = select(units, scores, 0.3, round_to=8)
    assert {len(u.indices) for n, u in found.items() if "mlp" in n} == {88}
    assert {(len(u.indices), u.kept_heads) for n, u in found.items() if "attn" in n} == {(16, 2)}
    best = scores["blocks.0.mlp"].topk(88).indices.sort().values.tolist()
    assert found["blocks.0.mlp"].indices == best
    heads = select(units, scores, 0.5, structures=("heads",))
    assert {(len(u.indices), u.kept_heads) for u in heads.values()} == {(16, 1)}
    assert set(heads) == {"blocks.0.attn", "blocks.1.attn"}


def test_global_ratios_take_from_where_least_is_lost() -> None:
    units = [u for u in prunable_units(make_tiny()) if u.kind == "hidden"]
    scores = {units[0].name: torch.linspace(0, 1, 128), units[1].name: torch.linspace(1, 2, 128)}
    found = select(units, scores, 0.25, scope="global")
    assert [len(found[u.name].indices) for u in units] == [64, 128]
    own = select(units, scores, 0.25, scope="global", ratios={"blocks.1.*": 0.5})
    assert [len(own[u.name].indices) for u in units] == [96, 64]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratio": 1.0}, "ratio 1.0"),
        ({"ratio": -0.1}, "ratio -0.1"),
        ({"structures": ("tail",)}, "structure 'tail'"),
        ({"scope": "local"}, "scope 'local'"),
        ({"ratios": {"nothing": 0.1}}, "matches no part"),
        ({"ratios": {"blocks.0.mlp": 2.0}}, "ratio 2.0"),
        ({"round_to": 0}, "round_to 0"),
    ],
)
def test_bad_choices_are_told(options: dict[str, object], said: str) -> None:
    units = prunable_units(make_tiny())
    scores = {u.name: torch.ones(u.size) for u in units}
    with pytest.raises(PmqError, match=said):
        select(units, scores, **({"ratio": 0.1} | options))
