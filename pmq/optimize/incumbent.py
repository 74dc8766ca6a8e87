"""Find a near-optimal genome within the limits in milliseconds, by Lagrangian prices and then by single changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pmq.optimize.lagrangian import minimize_lagrangian
from pmq.optimize.tables import Floats, Genomes, Tables

#: factors on the prices of the relaxed optimum; the costs of the resulting allocations lie around the limits
FACTORS = np.exp(np.linspace(-0.25, 0.35, 41))
#: number of the best of these allocations that are improved by single changes
IMPROVED = 3


def good_genome(tables: Tables, prices: Floats, start: Genomes, evaluate: Callable[[Genomes], Floats]) -> Genomes | None:
    """Find a genome ``(D,)`` of finite error whose error no change of a single decision lowers, or None if there is none.

    Args:
        tables: costs and errors.
        prices: ``(C,)`` error per unit of each cost at the relaxed optimum.
        start: ``(D,)`` a genome near that optimum, not necessarily within the limits.
        evaluate: returns the errors ``(B,)`` of genomes ``(B, D)``; infinite for genomes that are not allowed.
    """
    genomes = np.unique(np.concatenate([minimize_lagrangian(tables, prices * FACTORS[:, None]), start[None]]), axis=0)
    errors = evaluate(genomes)
    best, least = None, np.inf
    for index in np.argsort(errors, kind="stable")[:IMPROVED]:
        if np.isfinite(errors[index]):
            genome, error = _improved(tables, genomes[index], float(errors[index]), evaluate)
            best, least = (genome, error) if error < least else (best, least)
    return best


def _improved(tables: Tables, genome: Genomes, error: float, evaluate: Callable[[Genomes], Floats]) -> tuple[Genomes, float]:
    """Repeat the single change that lowers the error most until no change lowers it."""
    decisions, choices = np.nonzero(np.arange(tables.size.shape[1]) < tables.n_choices[:, None])
    while True:
        changed = np.repeat(genome[None], len(decisions), axis=0)
        changed[np.arange(len(decisions)), decisions] = choices
        errors = evaluate(changed)
        least = int(errors.argmin())
        if not errors[least] < error - 1e-12 * abs(error):  # measured errors may be negative
            return genome, error
        genome, error = changed[least], float(errors[least])
