"""Random allocations, over all budgets or all at one budget."""

from __future__ import annotations

import numpy as np

from pmq.core.budget import Limits
from pmq.core.errors import PmqError
from pmq.optimize.tables import Genomes, Tables

#: minimum share of the budget that an allocation at the budget costs
CLOSE = 0.98
#: maximum number of single-choice steps towards the budget
STEPS = 20_000


def random_genomes(tables: Tables, count: int, rng: np.random.Generator) -> Genomes:
    """Draw ``(count, D)`` genomes over all budgets; each spreads its choices around its own random level."""
    level = rng.random((count, 1)) * (tables.n_choices - 1)
    return np.clip(np.rint(level + rng.normal(size=level.shape)), 0, tables.n_choices - 1).astype(np.int64)


def random_at_budget(tables: Tables, limits: Limits, count: int, rng: np.random.Generator) -> Genomes:
    """Draw ``(count, D)`` genomes that cost as much as the limits allow, or up to 2 % less.

    Raises:
        PmqError: no allocation close below the limits was found.
    """
    return np.array([_walk_to(tables, limits, rng) for _ in range(count)])


def _walk_to(tables: Tables, limits: Limits, rng: np.random.Generator) -> Genomes:
    (genome,) = random_genomes(tables, 1, rng)
    for _ in range(STEPS):
        costs = tables.evaluate(genome[None])[0, 1:]
        shares = [costs[index] / limit for index, limit in limits.bounds]
        if not shares or CLOSE <= max(shares) <= 1:
            return genome
        d = rng.integers(len(genome))
        genome[d] = np.clip(genome[d] + (1 if max(shares) < CLOSE else -1), 0, tables.n_choices[d] - 1)
    raise PmqError(
        "random allocations do not come near the budget; choose a `budget` between the space's lowest and highest cost"
    )
