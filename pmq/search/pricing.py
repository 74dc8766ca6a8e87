"""Optima under prices instead of limits (Lagrangian relaxation): many good allocations in milliseconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pmq.search.tables import Floats, Genomes, Tables

#: passes over all decisions; each only ever improves
SWEEPS = 4


def priced(tables: Tables, prices: Floats, start: Genomes | None = None, free: NDArray[np.bool_] | None = None) -> Genomes:
    """Minimise ``error + prices . costs``, one decision at a time given the others.

    Without products of two decisions the result is optimal; with them it is where no single change is better.

    Args:
        tables: costs and errors.
        prices: ``(B, C)`` error that a byte, a bit operation and, where measured, a millisecond are worth.
        start: ``(B, D)`` genomes to start from.
        free: ``(B, D)`` which decisions may change.

    Returns:
        ``(B, D)`` genomes.
    """
    t = tables
    n_decisions, n_most = t.error.shape
    valid = np.arange(n_most) < t.n_choices[:, None]
    own = np.where(valid, t.error, np.inf) + prices[:, :1, None] * t.size + prices[:, 1:2, None] * t.ops  # (B, D, K)
    if t.latency is not None:
        own += prices[:, 2:, None] * t.latency
    partners: list[list[tuple[int, float]]] = [[] for _ in range(n_decisions)]
    for left, right, macs in zip(t.left, t.right, t.macs, strict=True):
        partners[left].append((right, macs))
        partners[right].append((left, macs))
    genomes = np.repeat(t.n_choices[None] - 1, len(prices), axis=0) if start is None else start.copy()
    for _ in range(SWEEPS):
        for d in range(n_decisions):
            cost = own[:, d]
            if partners[d]:
                load = sum(macs * t.bits[other, genomes[:, other]] for other, macs in partners[d])
                cost = cost + (prices[:, 1] * load)[:, None] * t.bits[d]
            best = cost.argmin(1)
            genomes[:, d] = best if free is None else np.where(free[:, d], best, genomes[:, d])
    return genomes


def price_range(tables: Tables, count: int, rng: np.random.Generator) -> Floats:
    """Draw ``(count, C)`` prices over the whole range in which they change anything, now and then one of them zero."""
    t = tables
    errors = t.error[np.arange(t.error.shape[1]) < t.n_choices[:, None]]
    spread = errors[errors > 0]
    low, high = (float(spread.min()), float(spread.max())) if len(spread) else (1.0, 1.0)
    most = np.array(t.dearest()) / len(t.n_choices)
    drawn = np.exp(rng.uniform(np.log(low), np.log(10 * high + low), (count, len(most)))) / most
    drawn[rng.random(drawn.shape) < 0.1] = 0.0
    return np.asarray(drawn)
