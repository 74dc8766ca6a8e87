"""What keeps branching short: a good genome to begin with, and choices that no optimum has left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog

from pmq.core import Limits
from pmq.optimize import ExactSolver, Tables, within
from pmq.optimize.incumbent import good_genome
from pmq.optimize.program import Program
from tests.optimize.test_search import everything, problem


def limited(tables: Tables, share: float) -> Limits:
    low, high = np.array(tables.lower_bound()), np.array(tables.upper_bound())
    return Limits(*map(float, low + share * (high - low)))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_every_optimum_survives_what_is_left_out(seed: int, share: float) -> None:
    _, tables = problem(seed, layers=4)
    program, limits = Program(tables), limited(tables, share)
    objective = program.over_choices(tables.error)
    rows, right = program.rows(limits, None)
    relaxed = linprog(objective, rows, right, program.links, program.values, (0, None), "highs-ds")
    costs = tables.evaluate(everything(tables))
    inside = within(limits, costs)
    least = costs[inside, 0].min()
    assert relaxed.fun <= least + 1e-9
    kept = program.affordable(relaxed.lower.marginals, least - relaxed.fun + 1e-9)
    for optimum in everything(tables)[inside & (costs[:, 0] <= least + 1e-12)]:
        assert kept[program.first[:-1] + optimum].all()
    assert kept.sum() < 0.8 * program.n
    assert program.affordable(relaxed.lower.marginals, np.inf).all()


def test_a_trust_region_is_a_row() -> None:
    _, tables = problem()
    program, genome = Program(tables), np.ones(len(tables.n_choices), int)
    (row,), (right,) = program.rows(Limits(), (genome, 2))
    for other in everything(tables)[::7]:
        chosen = np.zeros(program.n)
        chosen[program.first[:-1] + other] = 1
        assert (row @ chosen <= right) == ((other != genome).sum() <= 2)


@pytest.mark.parametrize("seed", range(4))
def test_a_good_genome_is_allowed_and_no_single_change_is_better(seed: int) -> None:
    _, tables = problem(seed, layers=4)
    limits = limited(tables, 0.4)

    def judge(genomes: np.ndarray) -> np.ndarray:
        costs = tables.evaluate(genomes)
        return np.where(within(limits, costs), costs[:, 0], np.inf)

    start = np.zeros(len(tables.n_choices), int)
    found = good_genome(tables, np.array([1e-4, 1e-5]), start, judge)
    assert found is not None
    every = everything(tables)
    near = every[(every != found).sum(1) == 1]
    assert judge(found[None])[0] <= judge(near).min() + 1e-12
    assert np.isfinite(judge(found[None])[0])
    assert good_genome(tables, np.array([1e-4, 1e-5]), start, lambda genomes: np.full(len(genomes), np.inf)) is None


@pytest.mark.parametrize("seed", range(4))
def test_errors_below_zero_are_minimised_too(seed: int) -> None:
    """Those of metrics that measure differences."""
    _, tables = problem(seed)
    tables = replace(tables, error=tables.error - tables.error.max())
    costs = tables.evaluate(everything(tables))
    inside = within(limited(tables, 0.5), costs)
    found = ExactSolver(tables, gap=0.0).solve(limited(tables, 0.5))
    assert found is not None
    assert tables.evaluate(found[None])[0, 0] == pytest.approx(costs[inside, 0].min())
