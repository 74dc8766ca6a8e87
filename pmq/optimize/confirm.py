"""Remeasure the choices near a table's optimum with a second metric."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np

from pmq.core.budget import Limits
from pmq.core.choice import Choice, WidthChoice
from pmq.core.progress import track
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.optimize.joint import solver_for
from pmq.optimize.space import Space
from pmq.optimize.tables import Tables

#: standard deviation of the log ratio of two good metrics' errors, and number of random perturbations of the errors
SPREAD, DRAWS = 0.33, 16
#: standard deviation of the log of an error that is measured on one image; that of a mean falls with the root of their number
NOISE = 1.6
#: standard deviations of the difference between table and measurement from which on more images are worth their time
DOUBT = 1.5

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


def doubtful_choices(table: SensitivityTable, measured: SensitivityTable, n_images: int) -> dict[str, list[Choice]]:
    """Return the choices whose error in ``measured`` differs from that in ``table`` by more than the noise of few images."""
    limit = DOUBT * math.hypot(SPREAD, _noise(n_images))
    doubtful: dict[str, list[Choice]] = {}
    for name, choice, log in _log_ratios(table, measured, _shift(table, measured)):
        if isinstance(choice, Choice) and abs(log) > limit:
            doubtful.setdefault(name, []).append(choice)
    return doubtful


def confirmed(table: SensitivityTable, measurements: Sequence[tuple[SensitivityTable, int]]) -> SensitivityTable:
    """Return ``table`` with each error that was measured again replaced by a geometric mean, weighted by precision.

    The two metrics err in different ways: a second-order metric does not see that large errors are not quadratic, and a
    metric of single outputs is noisy, the more so the fewer the images.

    Args:
        table: the table.
        measurements: tables of the other metric, each with its number of images; later ones replace the errors of earlier ones.
            They are scaled to ``table`` by the median ratio of the first one, so that all errors stay comparable.
    """
    seconds = table.seconds + sum(measured.seconds for measured, _ in measurements)
    joined = SensitivityTable(table.metric, {n: dict(row) for n, row in table.errors.items()}, seconds)
    for measured, n_images in measurements:
        weight = SPREAD**2 / (SPREAD**2 + _noise(n_images) ** 2)
        for name, choice, log in _log_ratios(table, measured, _shift(table, measurements[0][0])):
            joined.put(name, choice, max(table.get(name, choice), LEAST) * math.exp(weight * log))
    return joined


def _noise(n_images: int) -> float:
    return NOISE / math.sqrt(n_images)


def _shift(table: SensitivityTable, measured: SensitivityTable) -> float:
    """Return the median of the log of the ratio of ``measured`` to ``table``."""
    return median([log for *_, log in _log_ratios(table, measured, 0.0)] or [0.0])


def _log_ratios(
    table: SensitivityTable, measured: SensitivityTable, shift: float
) -> Iterator[tuple[str, Choice | WidthChoice, float]]:
    """Yield the log of the ratio of each error in ``measured`` to that in ``table``, minus ``shift``."""
    for name, choice, error in measured:
        yield name, choice, math.log(max(error, LEAST) / max(table.get(name, choice), LEAST)) - shift
