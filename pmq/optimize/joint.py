"""Joint search of bit-widths and widths: prices find the widths, the exact solver finds the bits of the remaining units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pmq.core.budget import Limits
from pmq.optimize.exact import ExactSolver
from pmq.optimize.lagrangian import minimize_lagrangian, price_range
from pmq.optimize.tables import Floats, Genomes, Tables, within

#: number of random price vectors, and bisection steps that fit each to the limits
PRICES, STEPS = 24, 12
#: number of width combinations whose bits are solved exactly
SOLVED = 3


class JointSolver:
    """Solver like :class:`ExactSolver` for tables with width decisions; widths are near-optimal, the bits under them optimal.

    Widths multiply the costs of bits, which a linear program cannot express in few variables. Under prices instead of limits
    every decision is optimised given the others, so width combinations that are good together are found.

    Args:
        tables: the search's tables.
        seed: random seed of the prices.
    """

    def __init__(self, tables: Tables, seed: int = 0) -> None:
        self.tables, self._seed = tables, seed

    def solve(self, limits: Limits, error: Floats | None = None, near: tuple[Genomes, int] | None = None) -> Genomes | None:
        """Solve as :meth:`ExactSolver.solve`; with ``near``, the widths are those of its genome."""
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
        """Return genomes within the limits by ascending error, no two with the same widths."""
        rng = np.random.default_rng(self._seed)
        prices = price_range(tables, PRICES, rng)
        bounded = np.zeros(prices.shape[1], bool)
        bounded[[index for index, _ in limits.bounds]] = True
        prices = np.where(bounded, prices, 0.0)
        low, high = np.full(PRICES, -12.0), np.full(PRICES, 12.0)
        parts = [np.zeros((1, len(tables.n_choices)), dtype=np.int64)]
        for _ in range(STEPS):  # bisect for the lowest level of each price vector that meets the limits
            middle = (low + high) / 2
            genomes_at_prices = minimize_lagrangian(tables, prices * np.exp(middle)[:, None])
            inside = within(limits, tables.evaluate(genomes_at_prices))
            parts.append(genomes_at_prices[inside])
            low, high = np.where(inside, low, middle), np.where(inside, middle, high)
        genomes = np.concatenate(parts)
        costs = tables.evaluate(genomes)
        order = np.argsort(np.where(within(limits, costs), costs[:, 0], np.inf), kind="stable")
        genomes = genomes[order[: within(limits, costs).sum()]]
        widths = genomes[:, tables.decides_width]
        _, first = np.unique(widths, axis=0, return_index=True)
        return genomes[np.sort(first)[:SOLVED]]


Solver = ExactSolver | JointSolver


def solver_for(tables: Tables) -> Solver:
    """Return the solver that the tables need: exact, or joint if they decide widths."""
    return ExactSolver(tables) if tables.widths is None else JointSolver(tables)
