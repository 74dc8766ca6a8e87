"""Bits and widths together: prices find how much to keep, the exact solver the bits of what is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pmq.core.budget import Limits
from pmq.optimize.exact import ExactSolver
from pmq.optimize.lagrangian import minimize_lagrangian, price_range
from pmq.optimize.tables import Floats, Genomes, Tables, within

#: prices drawn, and steps by which each is made to fit the limits
PRICES, STEPS = 24, 12
#: combinations of widths of which the best bits are found exactly
SOLVED = 3


class JointSolver:
    """As :class:`ExactSolver`, for tables that decide widths; those are near-optimal, the bits under them optimal.

    Widths multiply what bits cost, which no linear program can say in few variables. Under prices instead of limits
    every decision is made given the others, so widths that are worth having together are found.

    Args:
        tables: the search's tables.
        seed: of the prices.
    """

    def __init__(self, tables: Tables, seed: int = 0) -> None:
        self.tables, self._seed = tables, seed

    def solve(self, limits: Limits, error: Floats | None = None, near: tuple[Genomes, int] | None = None) -> Genomes | None:
        """See :meth:`ExactSolver.solve`; ``near`` a genome its widths are kept."""
        tables = self.tables if error is None else replace(self.tables, error=error)
        fixed = tables.decides_width
        if near is not None:
            return self._exact(tables, near[0], limits, (np.where(fixed, 0, near[0]), near[1]))
        best: tuple[float, Genomes] | None = None
        for genome in self._widths(tables, limits):
            solved = self._exact(tables, genome, limits, None)
            if solved is not None:
                least = float(tables.evaluate(solved[None])[0, 0])
                best = (least, solved) if best is None or least < best[0] else best
        return None if best is None else best[1]

    def _exact(self, tables: Tables, genome: Genomes, limits: Limits, near: tuple[Genomes, int] | None) -> Genomes | None:
        fixed = tables.decides_width
        solved = ExactSolver(tables.at(genome)).solve(limits, near=near)
        return None if solved is None else np.where(fixed, genome, solved)

    def _widths(self, tables: Tables, limits: Limits) -> Genomes:
        """Genomes within the limits with the least error, no two of the same widths."""
        rng = np.random.default_rng(self._seed)
        prices = price_range(tables, PRICES, rng)
        bounded = np.zeros(prices.shape[1], bool)
        bounded[[index for index, _ in limits.bounds]] = True
        prices = np.where(bounded, prices, 0.0)
        low, high = np.full(PRICES, -12.0), np.full(PRICES, 12.0)
        genomes = [np.zeros((1, len(tables.n_choices)), dtype=np.int64)]
        for _ in range(STEPS):  # the lowest level of each set of prices that meets the limits
            middle = (low + high) / 2
            found = minimize_lagrangian(tables, prices * np.exp(middle)[:, None])
            inside = within(limits, tables.evaluate(found))
            genomes.append(found[inside])
            low, high = np.where(inside, low, middle), np.where(inside, middle, high)
        every = np.concatenate(genomes)
        costs = tables.evaluate(every)
        order = np.argsort(np.where(within(limits, costs), costs[:, 0], np.inf), kind="stable")
        every = every[order[: within(limits, costs).sum()]]
        widths = every[:, tables.decides_width]
        _, first = np.unique(widths, axis=0, return_index=True)
        return every[np.sort(first)[:SOLVED]]


Solver = ExactSolver | JointSolver


def solver_for(tables: Tables) -> Solver:
    """The solver that tables need."""
    return ExactSolver(tables) if tables.widths is None else JointSolver(tables)
