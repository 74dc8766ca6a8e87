"""Pareto front search by NSGA-II (pymoo), on the tables alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.optimize import minimize

from pmq.core.budget import Limits
from pmq.optimize.tables import Genomes, Tables
from pmq.optimize.variation import PartCrossover, SeededSampling, StepMutation


class _AllocationProblem(Problem):  # type: ignore[misc]
    """Objectives: predicted error, and each cost divided by its upper bound. Constraints: the limits."""

    def __init__(self, tables: Tables, limits: Limits) -> None:
        self.tables = tables
        self.bounds = limits.bounds
        n, n_obj = len(tables.n_choices), 1 + len(tables.cost_names)
        n_bounds = len(self.bounds)
        super().__init__(n_var=n, n_obj=n_obj, n_ieq_constr=n_bounds, xl=np.zeros(n, int), xu=tables.n_choices - 1, vtype=int)
        self.seen: list[Genomes] = []

    def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        genomes = x.astype(np.int64)
        self.seen.append(genomes)
        costs = self.tables.evaluate(genomes)
        out["F"] = costs / np.array([1.0, *self.tables.upper_bound()])
        if self.bounds:
            out["G"] = np.stack([costs[:, 1 + index] / value - 1 for index, value in self.bounds], axis=1)


def nsga2(
    tables: Tables,
    limits: Limits,
    seeds: Genomes,
    generations: int = 120,
    population: int = 120,
    seed: int = 0,
) -> Genomes:
    """Run NSGA-II and return every distinct genome that it evaluated, ``(B, D)``, in order of first evaluation.

    Args:
        tables: costs and errors.
        limits: constraints; without any the whole front is searched.
        seeds: ``(S, D)`` genomes to start from.
        generations: number of generations.
        population: number of genomes per generation.
        seed: seed of the random generator.
    """
    problem = _AllocationProblem(tables, limits)
    algorithm = NSGA2(
        pop_size=population,
        sampling=SeededSampling(seeds),
        crossover=PartCrossover(),
        mutation=StepMutation(prob=1.0),
        eliminate_duplicates=True,
    )
    minimize(problem, algorithm, ("n_gen", generations), seed=seed, verbose=False)
    seen = np.concatenate(problem.seen)
    return seen[np.sort(np.unique(seen, axis=0, return_index=True)[1])]
