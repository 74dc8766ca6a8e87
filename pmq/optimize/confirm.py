"""Confirm a table where it matters: measure by another metric which choices are near its optimum."""

from __future__ import annotations

import math
from statistics import median

import numpy as np

from pmq.core.budget import Limits
from pmq.core.choice import Choice, WidthChoice
from pmq.core.progress import track
from pmq.metrics.table import SensitivityTable
from pmq.optimize.joint import solver_for
from pmq.optimize.space import Space
from pmq.optimize.tables import Tables

#: standard deviation of the logarithm of one good metric's error over another's, and how often errors are drawn
SPREAD, DRAWS = 0.33, 16

#: least error that counts: logarithms are taken
LEAST = 1e-12


def near_optimal_choices(space: Space, tables: Tables, limits: Limits, seed: int = 0) -> dict[str, list[Choice]]:
    """Choices of each component that an optimum within ``limits`` makes, if the errors were what they may well be.

    The table's errors are drawn anew several times, each off by a factor as metrics differ from one another, and solved
    for. What none of the optima chooses is clear already. FP32, whose error is known, is left out.
    """
    solver, rng = solver_for(tables), np.random.default_rng(seed)
    factors = [np.ones_like(tables.error), *(np.exp(SPREAD * rng.standard_normal(tables.error.shape)) for _ in range(DRAWS))]
    found: dict[str, dict[Choice, None]] = {}
    for factor in track(factors, "finding what is unclear"):
        genome = solver.solve(limits, np.maximum(tables.error, 0) * factor)
        for name, choice in space.assignment(genome).items() if genome is not None else ():
            if not choice.is_fp32 and not isinstance(choice, WidthChoice):
                found.setdefault(name, {})[choice] = None
    return {name: list(found[name]) for name in space.inventory.names if name in found}


def confirmed(table: SensitivityTable, measured: SensitivityTable) -> SensitivityTable:
    """Give ``table`` with, for each error that was ``measured`` too, the geometric mean of both.

    Two metrics err in different ways: that of the second order does not see that large errors are not quadratic, that of
    single outputs is noisy. The second is scaled to the first by the median of their ratios, so that errors measured
    and not measured stay comparable.
    """
    joined = SensitivityTable(table.metric, {n: dict(row) for n, row in table.errors.items()}, table.seconds + measured.seconds)
    logs = {(n, c): math.log(max(error, LEAST) / max(table.get(n, c), LEAST)) for n, c, error in measured}
    shift = median(logs.values()) if logs else 0.0
    for (name, choice), log in logs.items():
        joined.put(name, choice, max(table.get(name, choice), LEAST) * math.exp((log - shift) / 2))
    return joined
