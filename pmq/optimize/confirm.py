"""Correction of a table by a second metric, which measures the choices near the table's optimum."""

from __future__ import annotations

import math

import numpy as np

from pmq.core.budget import Limits
from pmq.core.choice import Choice
from pmq.core.component import Inventory
from pmq.core.progress import track
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.optimize.joint import solver_for
from pmq.optimize.space import Space
from pmq.optimize.tables import Tables

#: standard deviation of the log ratio of two good metrics' errors, and number of random perturbations of the errors
SPREAD, DRAWS = 0.33, 16
#: standard deviation of the log of an error that is measured on one image; that of a mean falls with the root of their number
NOISE = 1.6
#: standard deviations of what the log of a table's error is off by, and the measurement is not: of all components of a kind, of
#: a kind at one bit-width, of all choices of a component, and of each choice
KIND, KIND_BITS, COMPONENT, EACH = 0.2, 0.15, 0.2, 0.1

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


def confirmed(table: SensitivityTable, measured: SensitivityTable, n_images: int, inventory: Inventory) -> SensitivityTable:
    """Return ``table``, corrected by what a second metric measured on ``n_images`` for some of its choices.

    The two metrics err in different ways: a second-order metric does not see that large errors are not quadratic, and one that
    compares the outputs of few images is noisy. How far the table is off is mostly shared: by components of a kind, by a kind at
    one bit-width, by the choices of a component. The log of the ratio of both errors is therefore modelled as a sum of normal
    deviations, which single choices share with these groups, and noise; the table is corrected by their posterior mean. Choices
    that were not measured are corrected by what they share with measured ones. The median of the ratios, by which the scales of
    the metrics differ, is left out.
    """
    seconds = table.seconds + measured.seconds
    joined = SensitivityTable(table.metric, {n: dict(row) for n, row in table.errors.items()}, seconds, table.effects)
    entries = [(name, choice, error) for name, choice, error in table if isinstance(choice, Choice) and not choice.is_fp32]
    ratios = {
        (name, choice): math.log(max(error, LEAST) / max(table.get(name, choice), LEAST)) for name, choice, error in measured
    }
    if not ratios:
        return joined
    known = [index for index, (name, choice, _) in enumerate(entries) if (name, choice) in ratios]
    logs = np.array([ratios[entries[index][:2]] for index in known])
    kinds = [f"{(c := inventory[name]).role} {c.kind}" for name, *_ in entries]
    bits = [f"{kind} {choice.bits}" for kind, (_, choice, _) in zip(kinds, entries, strict=True)]
    names, each = [name for name, *_ in entries], list(map(str, range(len(entries))))
    covariance = np.zeros((len(entries), len(known)))
    for deviation, labels in ((KIND, kinds), (KIND_BITS, bits), (COMPONENT, names), (EACH, each)):
        index = np.unique(labels, return_inverse=True)[1]
        covariance += deviation**2 * (index[:, None] == index[None, known])
    noise = NOISE**2 / n_images * np.eye(len(known))
    correction = covariance @ np.linalg.solve(covariance[known] + noise, logs - np.median(logs))
    for (name, choice, error), log in zip(entries, correction.tolist(), strict=True):
        joined.put(name, choice, error * math.exp(log))
    return joined
