"""Greedy baseline: lower the least sensitive choices first until the budget is met."""

from __future__ import annotations

import numpy as np

from pmq.core.budget import Limits
from pmq.optimize.tables import Genomes, Tables, within


def greedy(tables: Tables, limits: Limits) -> Genomes | None:
    """Take for each decision the cheapest choice whose error is below a threshold, the lowest threshold that meets the limits.

    This is the method of tools that sort layers by a score and lower them in that order (AIMET, PPQ, NNCF); how much a
    choice saves plays no part.

    Returns:
        The genome ``(D,)``, or None if even the cheapest choices do not meet the limits.
    """
    valid = np.arange(tables.error.shape[1]) < tables.n_choices[:, None]
    low, thresholds = 0, np.unique(tables.error[valid])
    high = len(thresholds) - 1

    def genome_at(index: int) -> Genomes:
        allowed = valid & (tables.error <= thresholds[index])
        return np.where(allowed.any(1), allowed.argmax(1), tables.n_choices - 1)

    if not within(limits, tables.evaluate(genome_at(high)[None]))[0]:
        return None
    while low < high:
        middle = (low + high) // 2
        if within(limits, tables.evaluate(genome_at(middle)[None]))[0]:
            high = middle
        else:
            low = middle + 1
    return genome_at(low)
