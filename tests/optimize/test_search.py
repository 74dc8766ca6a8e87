from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moocore import hypervolume
from scipy.special import softmax

from pmq.core import FLOAT, Budget, Choice, Component, Inventory, Limits, Operator, PmqError
from pmq.core.task import CLASSIFICATION
from pmq.cost import CostModel
from pmq.metrics import SensitivityTable
from pmq.metrics.sensitivity_table import Effects
from pmq.optimize import ExactSolver, Space, SpaceFile, Tables, UniformCosts, non_dominated, nsga2, within
from pmq.optimize.confirm import confirmed, near_optimal_choices
from pmq.optimize.greedy import greedy
from pmq.optimize.lagrangian import minimize_lagrangian
from pmq.optimize.ranking import rank_correlation
from pmq.optimize.refit import refitted
from pmq.optimize.sampling import random_at_budget, random_genomes

OPTIONS = {"weight": {"bits": [2, 4, 8], "granularity": "channel", "symmetric": True}, "activation": {"bits": [2, 4, 8]}}


def problem(seed: int = 0, layers: int = 3, ties: list | None = None) -> tuple[Space, Tables]:
    """A few layers with random errors that fall with the bits."""
    rng = np.random.default_rng(seed)
    components, operators = [], []
    for i in range(layers):
        components += [Component(f"m{i}", "weight", "fc1", i, (8, 10 + i)), Component(f"m{i}", "input", "norm", i, (5, 10 + i))]
        operators.append(Operator(f"m{i}", 100 * (i + 1), (f"m{i}.weight", f"m{i}.input")))
    space = Space(SpaceFile(name="s", ties=ties or [], **OPTIONS), Inventory(tuple(components), tuple(operators), 64))
    table = SensitivityTable("random")
    for name, choices in space.choices.items():
        for choice, error in zip(choices, sorted(rng.exponential(size=len(choices)))[::-1], strict=True):
            table.put(name, choice, float(error))
    return space, Tables.build(space, table)


def everything(tables: Tables) -> np.ndarray:
    return np.array(list(itertools.product(*(range(n) for n in tables.n_choices))))


def test_tables_agree_with_the_cost_model() -> None:
    space, tables = problem()
    costs = CostModel(space.inventory)
    for genome in everything(tables)[::37]:
        _, size, ops = tables.evaluate(genome[None])[0]
        assignment = space.assignment(genome)
        assert (size, ops) == (costs.size_bytes(assignment), costs.bit_ops(assignment))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0.05, 1.0), tied=st.booleans())
def test_exact_is_the_optimum_and_within_the_budget(seed: int, share: float, tied: bool) -> None:
    ties = [{"components": ["*.weight", "*.input"], "within": "module"}] if tied else None
    _, tables = problem(seed, ties=ties)
    genomes = everything(tables)
    costs = tables.evaluate(genomes)
    limits = Limits(*(float(np.quantile(costs[:, c], share)) for c in (1, 2)))
    inside = within(limits, costs)
    found = ExactSolver(tables, gap=0.0).solve(limits)
    if not inside.any():
        assert found is None
        return
    assert found is not None
    error, size, ops = tables.evaluate(found[None])[0]
    assert limits.allow(size, ops)
    assert error == pytest.approx(costs[inside, 0].min())


def test_nsga2_finds_the_exact_front_of_a_small_space() -> None:
    _, tables = problem(1)
    genomes = everything(tables)
    costs = tables.evaluate(genomes)
    front = {tuple(row) for row in costs[non_dominated(costs)].round(9)}
    seen = nsga2(tables, Limits(), genomes[:3], generations=60, population=60)
    found = tables.evaluate(seen)
    got = {tuple(row) for row in found[non_dominated(found)].round(9)}
    assert len(front & got) >= 0.95 * len(front)


def test_nsga2_is_a_function_of_its_seed_and_keeps_to_the_choices() -> None:
    _, tables = problem(2)
    runs = [nsga2(tables, Limits(), np.zeros((1, 6), int), generations=5, population=20, seed=s) for s in (0, 0, 1)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert ((runs[0] >= 0) & (runs[0] < tables.n_choices)).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=40))
def test_front_is_what_nothing_beats(rows: list[tuple[int, int, int]]) -> None:
    costs = np.array(rows, float)
    keep = non_dominated(costs)
    for i, row in enumerate(costs):
        beaten = ((costs <= row).all(1) & (costs < row).any(1)).any()
        assert not (keep[i] and beaten)
        if not beaten:
            assert (costs[keep] == row).all(1).any()


def test_uniform_costs_interpolate_and_meet_whole_bits_exactly() -> None:
    space, _ = problem()
    costs, uniform = CostModel(space.inventory), UniformCosts(space)
    four = space.uniform(4, 4)
    assert uniform.uniform(4, 4) == (costs.size_bytes(four), costs.bit_ops(four))
    low, high = uniform.uniform(4, 4), uniform.uniform(5, 5)
    assert all(a < x < b for a, x, b in zip(low, uniform.uniform(4.5, 4.5), high, strict=True))
    assert uniform.uniform(32, 32)[0] == costs.size_bytes(dict.fromkeys(space.inventory.names, FLOAT)) == uniform.fp32_bytes
    assert Budget.parse("0.5x").resolve(uniform).size_bytes == uniform.fp32_bytes / 2


def test_cheapest_and_dearest_bound_everything() -> None:
    _, tables = problem()
    costs = tables.evaluate(everything(tables))
    assert tables.lower_bound() == (costs[:, 1].min(), costs[:, 2].min())
    assert tables.upper_bound() == (costs[:, 1].max(), costs[:, 2].max())
    assert Choice(bits=4).bits == 4


def _hypervolume(costs: np.ndarray, best: np.ndarray, worst: np.ndarray) -> float:
    points = np.stack([np.log(costs[:, 0]), np.log(costs[:, 2])], 1)
    return float(hypervolume((points - best) / (worst - best), ref=np.ones(2)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nsga2_comes_within_a_hundredth_of_the_exact_front(seed: int) -> None:
    _, tables = problem(seed, layers=30)
    low, high = tables.lower_bound()[1], tables.upper_bound()[1]
    solver = ExactSolver(tables)
    exact = np.array([solver.solve(Limits(None, low * (high / low) ** t)) for t in np.linspace(0, 1, 25)[1:]])
    costs = tables.evaluate(exact)
    corners = np.log(costs[:, [0, 2]])
    best, worst = corners.min(0), corners.max(0)
    seen = nsga2(tables, Limits(), np.zeros((1, 60), int), generations=166, population=120, seed=seed)
    assert len(seen) <= 20_000
    assert _hypervolume(tables.evaluate(seen), best, worst) >= 0.99 * _hypervolume(costs, best, worst)


def test_a_trust_region_bounds_the_changes() -> None:
    _, tables = problem(5)
    limits = Limits(None, tables.upper_bound()[1])
    free = ExactSolver(tables, gap=0.0).solve(limits)
    start = np.zeros(6, int)
    near = ExactSolver(tables, gap=0.0).solve(limits, near=(start, 2))
    assert (free != start).sum() > 2
    assert (near != start).sum() == 2


def test_greedy_lowers_what_is_hurt_least() -> None:
    _, tables = problem(6)
    limits = Limits(*(0.7 * most for most in tables.upper_bound()))
    found = greedy(tables, limits)
    assert within(limits, tables.evaluate(found[None]))[0]
    assert greedy(tables, Limits(1.0, 1.0)) is None


def test_random_allocations_at_a_budget_cost_about_that() -> None:
    _, tables = problem(7, layers=20)
    limits = Limits(None, 0.4 * tables.upper_bound()[1])
    drawn = random_at_budget(tables, limits, 10, np.random.default_rng(0))
    shares = tables.evaluate(drawn)[:, 2] / limits.bit_ops
    assert ((shares >= 0.98) & (shares <= 1)).all()
    assert len(np.unique(drawn, axis=0)) == 10
    with pytest.raises(PmqError, match="do not come near"):
        random_at_budget(tables, Limits(None, 1.0), 1, np.random.default_rng(0))


def test_refitting_corrects_the_level_and_leaves_order_to_the_table() -> None:
    _, tables = problem(8, layers=20)
    genomes = random_genomes(tables, 60, np.random.default_rng(0))
    errors = 2 * tables.evaluate(genomes)[:, 0]
    groups = [("weight" if d % 2 == 0 else "activation", d // 2) for d in range(40)]
    refit = refitted(tables, groups, genomes, errors)
    again = replace(tables, error=refit).evaluate(genomes)[:, 0]
    assert abs(again / errors - 1).mean() < 0.1
    assert (np.argsort(refit, 1) == np.argsort(tables.error, 1)).mean() > 0.95


def test_rank_correlation_has_an_interval_around_it() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=80)
    ranking = rank_correlation(true + rng.normal(size=80), true)
    assert ranking.low < ranking.tau < ranking.high < ranking.low + 0.4
    assert rank_correlation(true[:4], true[:4]) is None


def test_priced_is_where_no_single_change_is_better() -> None:
    _, tables = problem(3)
    price = np.array([[1e-3, 1e-6]])
    (found,) = minimize_lagrangian(tables, price)

    def total(genomes: np.ndarray) -> np.ndarray:
        costs = tables.evaluate(genomes)
        return costs[:, 0] + costs[:, 1:] @ price[0]

    changed = [np.where(np.arange(6) == d, k, found) for d in range(6) for k in range(3)]
    assert total(np.array(changed)).min() >= total(found[None])[0] - 1e-9
    held = minimize_lagrangian(tables, price, np.zeros((1, 6), int), np.arange(6)[None] < 3)
    assert (held[0, 3:] == 0).all()


def test_superposition_predicts_by_the_sum_of_changes() -> None:
    space, _ = problem(4)
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(5, 4)).astype(np.float32)
    table = SensitivityTable("superposition", effects=Effects(reference, reference, CLASSIFICATION))
    for name, choices in space.choices.items():
        for choice in choices:
            table.put(name, choice, 0.1)
            table.effects.changes.setdefault(name, {})[choice] = rng.normal(size=(5, 4)).astype(np.float32)
    genomes = everything(Tables.build(space, table))[::50]
    predicted = Tables.build(space, table).evaluate(genomes)[:, 0]
    for genome, value in zip(genomes, predicted, strict=True):
        changes = sum(table.effects.changes[n][c] for n, c in space.assignment(genome).items())
        p, q = softmax(reference, 1), softmax(reference + changes, 1)
        assert value == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-4)


def test_plausible_choices_are_those_that_errors_not_known_well_could_make_optimal() -> None:
    space, tables = problem(layers=4)
    low, high = np.array(tables.lower_bound()), np.array(tables.upper_bound())
    limits = Limits(*(low + 0.4 * (high - low)))
    found = near_optimal_choices(space, tables, limits)
    optimum = space.assignment(ExactSolver(tables).solve(limits))
    assert all(choice in found[name] for name, choice in optimum.items())
    count = sum(map(len, found.values()))
    assert len(optimum) < count < sum(map(len, space.choices.values()))
    assert found == near_optimal_choices(space, tables, limits)


def test_a_second_metric_corrects_what_it_measured_and_what_shares_its_kind() -> None:
    space, _ = problem(layers=4)
    table = SensitivityTable("a", {name: {c: 1.0 / 2**c.bits for c in row} for name, row in space.choices.items()})
    names = list(space.choices)
    weights = [name for name in names if space.inventory[name].role == "weight"]
    low = min(space.choices[weights[0]], key=lambda choice: choice.bits)
    others = {c for c in space.choices[weights[0]] if c != low}
    # The second metric's scale is ten times the table's, and it finds weights at the lowest width four times as bad as the table.
    errors = {name: {c: 10 * table.get(name, c) for c in row} for name, row in space.choices.items()}
    for name in weights[:-1]:
        errors[name][low] *= 4
    del errors[weights[-1]]
    measured = SensitivityTable("b", errors)
    joined = confirmed(table, measured, 10**6, space.inventory)
    assert joined.get(weights[0], low) / table.get(weights[0], low) == pytest.approx(4, rel=0.05)
    assert all(joined.get(weights[0], c) == pytest.approx(table.get(weights[0], c), rel=0.05) for c in others)
    assert 1.5 < joined.get(weights[-1], low) / table.get(weights[-1], low) < 4, (
        "it was not measured, but others of its kind were"
    )
    few = confirmed(table, measured, 2, space.inventory)
    assert 1 < few.get(weights[0], low) / table.get(weights[0], low) < 3
    assert table.get(weights[0], low) == 1.0 / 2**low.bits
    assert confirmed(table, SensitivityTable("b"), 12, space.inventory).errors == table.errors
