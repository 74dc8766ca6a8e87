"""Tables that know how much is kept."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pmq.core import Limits, PmqError
from pmq.core.choice import widths_of
from pmq.core.pruning import PrunedUnit, PruningPlan, WidthOptions
from pmq.cost import CostModel
from pmq.graph import analyse
from pmq.metrics import SensitivityTable
from pmq.optimize import ExactSolver, Space, Tables, nsga2, read_space, within
from pmq.optimize.joint import JointSolver
from pmq.optimize.lagrangian import minimize_lagrangian, price_range
from pmq.optimize.sampling import random_genomes
from pmq.optimize.space_file import Tie
from pmq.pruning import apply_plan
from tests.conftest import make_tiny

WIDTHS = [
    WidthOptions(f"blocks.{i}.{part}", tuple(PrunedUnit.of(kind, size, kept, heads) for kept in options), rest_bytes=rest)
    for i in range(2)
    for part, kind, size, heads, rest, options in (
        ("attn", "attention", 32, 2, 4 * 96, (range(16), [*range(8), *range(16, 24)], range(32))),
        ("mlp", "hidden", 128, 1, 4 * 128, (range(64), range(96), range(128))),
    )
]


def laid_out(name: str, seed: int = 0) -> tuple[Space, Tables]:
    inventory = analyse(make_tiny(), torch.zeros(1, 3, 32, 32))[1]
    space = Space(read_space(name), inventory, widths=WIDTHS)
    rng, table = np.random.default_rng(seed), SensitivityTable("drawn")
    for decision in space.decisions:
        for component, choices in zip(decision.components, decision.choices, strict=True):
            scale = float(rng.random()) / 100
            for choice in choices:
                label = choice.label
                error = scale * (4.0 ** -min(choice.bits, 8) if "/" not in label else 0.02 * (1 - choice.unit.share))
                if not choice.is_fp32:
                    table.put(component, choice, error)
    return space, Tables.build(space, table)


@pytest.mark.parametrize("name", ["default", "onnxruntime"])
def test_costs_are_those_of_the_pruned_model(name: str) -> None:
    space, tables = laid_out(name)
    for genome in random_genomes(tables, 6, np.random.default_rng(0)):
        assignment = space.assignment(genome)
        units = {name: choice.unit for name, choice in widths_of(space.decided(genome)).items()}
        model = apply_plan(copy.deepcopy(make_tiny()), PruningPlan(importance="x", recovered=False, units=units))
        costs = CostModel(analyse(model, torch.zeros(1, 3, 32, 32))[1])
        _, size, ops = tables.evaluate(genome[None])[0]
        # groups that end within a row, and scales of heads that are gone, are left out of the account
        assert size == pytest.approx(costs.size_bytes(assignment), rel=0.01)
        assert ops == pytest.approx(costs.bit_ops(assignment), rel=1e-9 if name == "default" else 0.002)


def test_fixed_widths_leave_the_same_table() -> None:
    _, tables = laid_out("onnxruntime")
    rng = np.random.default_rng(1)
    for genome in random_genomes(tables, 5, rng):
        fixed = tables.at(genome)
        plain = np.where(tables.decides_width, 0, genome)
        np.testing.assert_allclose(fixed.evaluate(plain[None]), tables.evaluate(genome[None]))
    every = tables.evaluate(random_genomes(tables, 200, rng))[:, 1:]
    assert (every >= np.array(tables.lower_bound()) * (1 - 1e-9)).all()
    assert (every <= np.array(tables.upper_bound()) * (1 + 1e-9)).all()


def test_no_single_change_of_bits_or_widths_is_better_under_prices() -> None:
    _, tables = laid_out("default")
    prices = price_range(tables, 6, np.random.default_rng(2))

    def total(genomes: np.ndarray, which: int) -> np.ndarray:
        costs = tables.evaluate(genomes)
        return costs[:, 0] + costs[:, 1:] @ prices[which]

    for which, genome in enumerate(minimize_lagrangian(tables, prices)):
        neighbours = []
        for d, n in enumerate(tables.n_choices):
            for k in range(n):
                changed = genome.copy()
                changed[d] = k
                neighbours.append(changed)
        best = total(genome[None], which)[0]
        assert best <= total(np.array(neighbours), which).min() * (1 + 1e-6) + 1e-15


def test_the_joint_optimum_is_no_worse_than_bits_alone_or_chance() -> None:
    _, tables = laid_out("onnxruntime")
    low, high = np.array(tables.lower_bound()), np.array(tables.upper_bound())
    limits = Limits(*(low * (high / low) ** 0.35))
    genome = JointSolver(tables).solve(limits)
    assert genome is not None
    found = tables.evaluate(genome[None])
    assert within(limits, found)[0]
    whole = tables.at(np.where(tables.decides_width, tables.n_choices - 1, 0))
    alone = ExactSolver(whole).solve(limits)
    if alone is not None:
        assert found[0, 0] <= whole.evaluate(alone[None])[0, 0] * 1.001
    drawn = tables.evaluate(random_genomes(tables, 5000, np.random.default_rng(0)))
    assert found[0, 0] <= drawn[within(limits, drawn), 0].min()
    seen = tables.evaluate(nsga2(tables, limits, genome[None], generations=20, population=40))
    assert seen[within(limits, seen), 0].min() <= found[0, 0] * (1 + 1e-9)


def test_ties_across_blocks_do_not_go_with_widths() -> None:
    tied = read_space("default").model_copy(
        update={"ties": [Tie(components=["*.mlp.fc1.weight", "*.mlp.fc1.input"], within="model")]}
    )
    space = Space(tied, analyse(make_tiny(), torch.zeros(1, 3, 32, 32))[1], widths=WIDTHS)
    with pytest.raises(PmqError, match="to other blocks"):
        Tables.build(space, SensitivityTable.zeros(space.choices))
