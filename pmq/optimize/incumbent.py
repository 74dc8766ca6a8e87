"""A genome within the limits that is near the optimum, in milliseconds: by prices, then by single changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pmq.optimize.lagrangian import minimize_lagrangian
from pmq.optimize.tables import Floats, Genomes, Tables

#: what the prices of the relaxed optimum are multiplied by: the allocations that they buy lie around the limits
FACTORS = np.exp(np.linspace(-0.25, 0.35, 41))
#: of those the best ones that are improved by single changes
IMPROVED = 3


def good_genome(tables: Tables, prices: Floats, start: Genomes, judge: Callable[[Genomes], Floats]) -> Genomes | None:
    """Find a genome ``(D,)`` that ``judge`` thinks finite of, and as little as can be had by changing one decision at a time.

    Args:
        tables: costs and errors.
        prices: ``(C,)`` what each cost is worth at the relaxed optimum.
        start: ``(D,)`` a genome near that, not necessarily within the limits.
        judge: errors ``(B,)`` of genomes ``(B, D)``; infinite where they are not allowed.
    """
    found = np.unique(np.concatenate([minimize_lagrangian(tables, prices * FACTORS[:, None]), start[None]]), axis=0)
    errors = judge(found)
    best, least = None, np.inf
    for index in np.argsort(errors, kind="stable")[:IMPROVED]:
        if np.isfinite(errors[index]):
            genome, error = _improved(tables, found[index], float(errors[index]), judge)
            best, least = (genome, error) if error < least else (best, least)
    return best


def _improved(tables: Tables, genome: Genomes, error: float, judge: Callable[[Genomes], Floats]) -> tuple[Genomes, float]:
    """Take the single change that gains most, as long as one gains."""
    decisions, choices = np.nonzero(np.arange(tables.size.shape[1]) < tables.n_choices[:, None])
    while True:
        changed = np.repeat(genome[None], len(decisions), axis=0)
        changed[np.arange(len(decisions)), decisions] = choices
        errors = judge(changed)
        least = int(errors.argmin())
        if not errors[least] < error - 1e-12 * abs(error):  # errors that were measured may be below zero
            return genome, error
        genome, error = changed[least], float(errors[least])
