"""Remeasure the choices near a table's optimum with a second metric."""

from __future__ import annotations

import math
from statistics import median

import numpy as np

from pmq.core.budget import Limits
from pmq.core.choice import Choice
from pmq.core.progress import track
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.optimize.joint import solver_for
from pmq.optimize.space import Space
from pmq.optimize.tables import Tables

#: standard deviation of the log ratio of two good metrics' errors, and number of random perturbations of the errors
SPREAD, DRAWS = 0.33, 16

#: lower bound of errors before their logarithm is taken
LEAST = 1e-12


def near_optimal_choices(space: Space, tables: Tables, limits: Limits, seed: int = 0) -> dict[str, list[Choice]]:
    """Return the choices of each component that some optimum within ``limits`` makes when errors vary within their uncertainty.

    The table's errors are perturbed several times, each by a random factor as large as typical differences between metrics,
    and the problem is solved for each perturbation. Choices that no optimum makes need no second measurement. FP32, whose
    error is known, is left out.
    """
    solver, rng = solver_for(tables), np.random.default_rng(seed)
    factors = [np.ones_like(tables.error), *(np.exp(SPREAD * rng.standard_normal(tables.error.shape)) for _ in range(DRAWS))]
    near_optimal: dict[str, dict[Choice, None]] = {}
    for factor in track(factors, "finding near-optimal choices"):
        genome = solver.solve(limits, np.maximum(tables.error, 0) * factor)
        for name, choice in space.assignment(genome).items() if genome is not None else ():
            if not choice.is_fp32:
                near_optimal.setdefault(name, {})[choice] = None
    return {name: list(near_optimal[name]) for name in space.inventory.names if name in near_optimal}


def confirmed(table: SensitivityTable, measured: SensitivityTable) -> SensitivityTable:
    """Return ``table`` with each error that is also in ``measured`` replaced by the geometric mean of both.

    The two metrics err in different ways: a second-order metric does not see that large errors are not quadratic, and a
    metric of single outputs is noisy. ``measured`` is first scaled to ``table`` by the median of their ratios, so that
    remeasured errors and the others stay comparable.
    """
    joined = SensitivityTable(table.metric, {n: dict(row) for n, row in table.errors.items()}, table.seconds + measured.seconds)
    logs = {(n, c): math.log(max(error, LEAST) / max(table.get(n, c), LEAST)) for n, c, error in measured}
    shift = median(logs.values()) if logs else 0.0
    for (name, choice), log in logs.items():
        joined.put(name, choice, max(table.get(name, choice), LEAST) * math.exp((log - shift) / 2))
    return joined
