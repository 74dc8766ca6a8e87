"""Posterior update of a table from simulated allocations: Bayesian linear regression with the table as prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pmq.optimize.space import Space
from pmq.optimize.tables import Floats, Genomes, Tables

#: prior relative standard deviations of the table's errors: shared by all, by one kind of component, by one stage, and of
#: each error; and of the noise of a simulated error, which no table can explain. One component contributes about a
#: hundredth, so simulations determine the shared deviation well, those of kinds and stages less, those of single errors little.
ALL, KIND, STAGE, EACH, NOISE = 0.5, 0.1, 0.05, 0.02, 0.1

#: minimum number of simulated allocations for an update
FEWEST = 5


def posterior_update(tables: Tables, space: Space, genomes: Genomes, errors: Floats) -> Tables:
    """Return the tables with their errors :func:`refitted` to those of simulated allocations ``(B, D)``, ``(B,)``.

    The tables are returned unchanged if allocations are few, or if errors are not predicted from the table's errors.
    """
    if tables.predict is not None or len(genomes) < FEWEST:
        return tables
    groups = [_kind_and_stage(space, decision.components[0]) for decision in space.decisions]
    return replace(tables, error=refitted(tables, groups, genomes, errors))


def refitted(tables: Tables, groups: Sequence[tuple[str, int]], genomes: Genomes, errors: Floats) -> Floats:
    """Return the most probable errors ``(D, K)`` given the errors of whole allocations.

    The error of a choice is modelled as the table's error times one plus four normal deviations, three of which are shared;
    the error of an allocation is the sum of its choices' errors plus noise. Everything is linear in the deviations, so this
    takes one linear solve with as many equations as there are allocations.

    Args:
        tables: the table to update.
        groups: kind and stage of each decision.
        genomes: ``(B, D)`` simulated allocations.
        errors: ``(B,)`` their errors.
    """
    rows = np.arange(len(tables.error))
    parts = np.maximum(tables.parts(genomes), 0)  # (B, D)
    shared = [
        (ALL, np.zeros(len(rows), int)),
        *((s, _indices(g)) for s, g in zip((KIND, STAGE), zip(*groups, strict=True), strict=True)),
    ]
    sums = [(sigma, index, _sums_by(parts, index)) for sigma, index in shared]
    covariance = np.zeros((len(errors), len(errors)))
    for sigma, _, s in sums:
        covariance += sigma**2 * s @ s.T
    for d in rows:
        same = genomes[:, None, d] == genomes[None, :, d]
        covariance += EACH**2 * same * np.outer(parts[:, d], parts[:, d])
    covariance[np.diag_indices(len(errors))] += (NOISE * errors.mean()) ** 2
    weights = np.linalg.solve(covariance, errors - parts.sum(1))
    deviation = np.zeros_like(tables.error)
    for sigma, index, s in sums:
        deviation += (sigma**2 * (weights @ s))[index][:, None]
    for k in range(tables.error.shape[1]):
        deviation[:, k] += EACH**2 * tables.error[:, k] * (weights @ (genomes == k))
    return np.asarray(tables.error * np.maximum(1 + deviation, 0.1))


def _kind_and_stage(space: Space, name: str) -> tuple[str, int]:
    """Return the kind and stage of a component or of a width unit."""
    if name in space.inventory.names:
        component = space.inventory[name]
        return f"{component.role} {component.kind}", component.stage
    options = next(w for w in space.widths if w.name == name)
    return f"kept {options.options[0].kind}", space.inventory[f"{options.layers[-1]}.weight"].stage


def _indices(labels: Sequence[object]) -> Genomes:
    return np.unique([str(label) for label in labels], return_inverse=True)[1]


def _sums_by(parts: Floats, index: Genomes) -> Floats:
    """Sum the columns of ``(B, D)`` that have the same index: ``(B, G)``."""
    return parts @ (index[:, None] == np.arange(index.max() + 1))
