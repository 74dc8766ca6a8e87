"""Correct a table by what was simulated: Bayesian linear regression with the table as prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pmq.optimize.space import Space
from pmq.optimize.tables import Floats, Genomes, Tables

#: relative standard deviation that the table's errors are believed to have: all together, those of one kind of
#: component, those of one stage, each by itself; and of a simulated error from what no table can say. One component is
#: a hundredth of the whole, so simulations tell much of all together, something of kinds and stages, little of each.
ALL, KIND, STAGE, EACH, NOISE = 0.5, 0.1, 0.05, 0.02, 0.1


#: simulated allocations below which a table is left as it is
FEWEST = 5


def posterior_update(tables: Tables, space: Space, genomes: Genomes, errors: Floats) -> Tables:
    """Give the tables with errors :func:`refitted` to those of simulated allocations ``(B, D)``, ``(B,)``.

    Left as they are where allocations are few, or errors are not what predicts.
    """
    if tables.predict is not None or len(genomes) < FEWEST:
        return tables
    groups = [_group(space, decision.components[0]) for decision in space.decisions]
    return replace(tables, error=refitted(tables, groups, genomes, errors))


def refitted(tables: Tables, groups: Sequence[tuple[str, int]], genomes: Genomes, errors: Floats) -> Floats:
    """Most probable errors ``(D, K)`` given those of whole allocations.

    The error of a choice is taken to be the table's times one plus four normal deviations, of which three are shared;
    the error of an allocation is their sum, plus noise. Everything is linear in the deviations, so this is one solve of
    as many equations as there are allocations.

    Args:
        tables: the table to correct.
        groups: kind and stage of each decision.
        genomes: ``(B, D)`` simulated.
        errors: ``(B,)`` theirs.
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


def _group(space: Space, name: str) -> tuple[str, int]:
    """Kind and stage of a component, or of what may be removed."""
    if name in space.inventory.names:
        component = space.inventory[name]
        return f"{component.role} {component.kind}", component.stage
    options = next(w for w in space.widths if w.name == name)
    return f"kept {options.options[0].kind}", space.inventory[f"{options.layers[-1]}.weight"].stage


def _indices(labels: Sequence[object]) -> Genomes:
    return np.unique([str(label) for label in labels], return_inverse=True)[1]


def _sums_by(parts: Floats, index: Genomes) -> Floats:
    """Sum columns ``(B, D)`` of the same index: ``(B, G)``."""
    return parts @ (index[:, None] == np.arange(index.max() + 1))
