"""Lagrangian relaxation: optima under prices instead of limits yield many good allocations in milliseconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pmq.optimize.tables import Floats, Genomes, Tables

#: number of passes over all decisions; no pass makes the objective worse
SWEEPS = 4


def minimize_lagrangian(
    tables: Tables, prices: Floats, start: Genomes | None = None, free: NDArray[np.bool_] | None = None
) -> Genomes:
    """Minimise ``error + prices . costs``, one decision at a time given the others.

    Without products of two decisions the result is optimal; with them it is a point that no single change improves.

    Args:
        tables: costs and errors.
        prices: ``(B, C)`` error per byte, per bit operation and, where latency was measured, per millisecond.
        start: ``(B, D)`` genomes to start from.
        free: ``(B, D)`` which decisions may change.

    Returns:
        ``(B, D)`` genomes.
    """
    t, rows = tables, np.arange(tables.error.shape[1])
    n_decisions = len(t.n_choices)
    valid = rows < t.n_choices[:, None]
    partners: list[list[tuple[int, int]]] = [[] for _ in range(n_decisions)]
    for p, (left, right) in enumerate(zip(t.left, t.right, strict=True)):
        partners[left].append((right, p))
        partners[right].append((left, p))
    members = _unit_members(t)
    static_costs: list[Floats] = []
    genomes = np.repeat(t.n_choices[None] - 1, len(prices), axis=0) if start is None else start.copy()
    if t.widths is None:  # without widths they do not depend on the genomes
        static_costs = [_choice_costs(t, prices, genomes, d) for d in range(n_decisions)]
    for _ in range(SWEEPS):
        for d in range(n_decisions):
            cost = static_costs[d] if static_costs else _choice_costs(t, prices, genomes, d)
            for partner, p in partners[d]:
                load = t.macs[p] * t.bits[partner, genomes[:, partner]] * _product_share(t, genomes, p)
                cost = cost + (prices[:, 1] * load)[:, None] * t.bits[d]
            if members[d]:  # this decision changes the costs of all its members
                cost = cost + np.stack(
                    [_member_costs(t, prices, _with_choice(genomes, d, k), members[d], d) for k in range(len(rows))], 1
                )
            best = np.where(valid[d], cost, np.inf).argmin(1)
            genomes[:, d] = best if free is None else np.where(free[:, d], best, genomes[:, d])
    return genomes


def _choice_costs(t: Tables, prices: Floats, genomes: Genomes, d: int) -> Floats:
    """Return the Lagrangian of each choice of a decision alone ``(B, K)``, under the widths of the genomes."""
    error, size, ops = (np.repeat(table[d][None], len(prices), axis=0) for table in (t.error, t.size, t.ops))
    latency = None if t.latency is None else np.repeat(t.latency[d][None], len(prices), axis=0)
    w = t.widths
    if w is not None and w.unit[d] != d:
        unit = w.unit[d]
        share = w.share[unit, genomes[:, unit]][:, None]
        error, size, ops = error * share, size - w.size[d] * (1 - share), ops - w.ops[d] * (1 - share)
        if latency is not None and w.saved is not None:
            latency = latency - w.saved[d][:, genomes[:, unit]].T
    total = error + prices[:, :1] * size + prices[:, 1:2] * ops
    return np.asarray(total if latency is None else total + prices[:, 2:3] * latency)


def _product_share(t: Tables, genomes: Genomes, p: int) -> Floats | float:
    """Return the share of a product's multiply-accumulates that the genomes' widths keep."""
    unit = -1 if t.widths is None else t.widths.product_unit[p]
    return 1.0 if t.widths is None or unit < 0 else t.widths.share[unit, genomes[:, unit]]


def _unit_members(t: Tables) -> list[list[int]]:
    """Return for each decision the decisions that depend on it."""
    if t.widths is None:
        return [[] for _ in t.n_choices]
    return [[int(m) for m in np.flatnonzero(t.widths.unit == d) if m != d] for d in range(len(t.n_choices))]


def _with_choice(genomes: Genomes, d: int, k: int) -> Genomes:
    changed = genomes.copy()
    changed[:, d] = k
    return changed


def _member_costs(t: Tables, prices: Floats, genomes: Genomes, members: list[int], unit: int) -> Floats:
    """Return the Lagrangian of everything that depends on a decision ``(B,)``."""
    rows = np.arange(len(genomes))
    total = np.zeros(len(genomes))
    for m in members:
        total += _choice_costs(t, prices, genomes, m)[rows, genomes[:, m]]
    assert t.widths is not None
    for p in np.flatnonzero(t.widths.product_unit == unit):
        bits = t.bits[t.left[p], genomes[:, t.left[p]]] * t.bits[t.right[p], genomes[:, t.right[p]]]
        total += prices[:, 1] * t.macs[p] * bits * _product_share(t, genomes, int(p))
    return total


def price_range(tables: Tables, count: int, rng: np.random.Generator) -> Floats:
    """Draw ``(count, C)`` prices over the whole range that affects the optimum; each is zero with probability 0.1."""
    t = tables
    errors = t.error[np.arange(t.error.shape[1]) < t.n_choices[:, None]]
    spread = errors[errors > 0]
    low, high = (float(spread.min()), float(spread.max())) if len(spread) else (1.0, 1.0)
    mean_upper_costs = np.array(t.upper_bound()) / len(t.n_choices)
    prices = np.exp(rng.uniform(np.log(low), np.log(10 * high + low), (count, len(mean_upper_costs)))) / mean_upper_costs
    prices[rng.random(prices.shape) < 0.1] = 0.0
    return np.asarray(prices)
