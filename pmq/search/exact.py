"""The exact optimum of the additive problem, by mixed-integer linear programming (HiGHS)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from pmq.core.budget import Limits
from pmq.search.tables import Floats, Genomes, Tables

#: one in so many decisions may differ from a genome that it is trusted near
TRUSTED = 10


def trust_region(genome: Sequence[int]) -> tuple[Genomes, int]:
    """Give what :meth:`ExactSolver.solve` takes as ``near`` to stay where measurements around ``genome`` hold."""
    return np.array(genome), max(2, len(genome) // TRUSTED)


@contextmanager
def _silenced_stdout() -> Iterator[None]:
    """HiGHS prints debugging lines from C++ whatever its options say; they would end up in the middle of JSON."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 1)
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


class ExactSolver:
    """Minimises the predicted error within limits on bytes and bit operations.

    Bit operations multiply two operands' bits. They become linear with one variable for each *pair* of choices of a
    product's operands, whose sums over rows and columns must equal the operands' own choice variables; given whole
    choices the pairs come out whole, so only the choices are declared integer.

    Args:
        tables: the search's tables.
        gap: relative gap to the proven optimum at which to stop.
        node_limit: branches to explore at most for one solution; not seconds, so that a busy machine finds the same.
    """

    def __init__(self, tables: Tables, gap: float = 1e-3, node_limit: int = 2000) -> None:
        self.tables, self._options = tables, {"mip_rel_gap": gap, "node_limit": node_limit}
        t = tables
        self._first = np.concatenate([[0], np.cumsum(t.n_choices)])  # first variable of each decision
        n_pairs = [int(t.n_choices[left] * t.n_choices[right]) for left, right in self._operands]
        self._pair_first = self._first[-1] + np.concatenate([[0], np.cumsum(n_pairs)])
        self._n = int(self._pair_first[-1])
        self._valid = np.arange(t.size.shape[1]) < t.n_choices[:, None]
        # coefficients of each cost, and what is spent in any case
        self._costs = [(self._over_choices(t.size), t.rest_bytes), (self._bit_ops(), 0.0)]
        if t.latency is not None:
            self._costs.append((self._over_choices(t.latency), t.rest_ms))
        self._links, self._link_values = self._equalities()

    @property
    def _operands(self) -> Iterator[tuple[int, int]]:
        return zip(self.tables.left, self.tables.right, strict=True)

    def solve(self, limits: Limits, error: Floats | None = None, near: tuple[Genomes, int] | None = None) -> Genomes | None:
        """Find the best genome ``(D,)`` within ``limits``; nothing if there is none.

        Args:
            limits: what may be spent.
            error: ``(D, K)`` to minimise in place of the tables' error.
            near: a trust region: a genome, and how many decisions may differ from it. What was measured around an
                allocation holds near it.
        """
        objective = self._over_choices(self.tables.error if error is None else error)
        # The solver may overstep a limit by its tolerance, about 1e-6; then it is asked again with that much less.
        for slack in (0.0, 2e-6, 2e-5):
            genome = self._solve(objective, limits.scaled(1 - slack), near)
            if genome is None:
                return None
            if limits.allow(*self.tables.evaluate(genome[None])[0, 1:]):
                return genome
        return None

    def _solve(self, objective: Floats, limits: Limits, near: tuple[Genomes, int] | None) -> Genomes | None:
        constraints = [LinearConstraint(self._links, self._link_values, self._link_values)]
        if near is not None:
            genome, changes = near
            kept = np.zeros(self._n)
            kept[self._first[:-1] + genome] = 1
            constraints.append(LinearConstraint(kept[None], len(genome) - changes, np.inf))
        for index, limit in limits.bounds:
            row, rest = self._costs[index]
            constraints.append(LinearConstraint(row[None] / limit, -np.inf, (limit - rest) / limit))
        integrality = np.zeros(self._n)
        integrality[: self._first[-1]] = 1
        # Scaled so that the solver's absolute tolerances mean little against the error.
        scale = max(float(objective.max()), 1e-30)
        with _silenced_stdout():
            result = milp(
                objective / scale * 1e3,
                constraints=constraints,
                integrality=integrality,
                bounds=Bounds(0, 1),
                options=self._options,
            )
        if result.x is None:
            return None
        return np.array([int(np.argmax(result.x[a:b])) for a, b in zip(self._first, self._first[1:], strict=False)])

    def _over_choices(self, table: Floats) -> Floats:
        flat = np.zeros(self._n)
        flat[: self._first[-1]] = table[self._valid]
        return flat

    def _bit_ops(self) -> Floats:
        t, row = self.tables, self._over_choices(self.tables.ops)
        for p, (left, right) in enumerate(self._operands):
            a, b = (t.bits[d, : t.n_choices[d]] for d in (left, right))
            row[self._pair_first[p] : self._pair_first[p + 1]] = (t.macs[p] * np.outer(a, b)).ravel()
        return row

    def _equalities(self) -> tuple[csr_array, Floats]:
        """One choice a decision; pair sums equal choices."""
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        right_side: list[float] = []

        def add(terms: list[tuple[int, float]], value: float) -> None:
            for column, factor in terms:
                rows.append(len(right_side))
                columns.append(column)
                values.append(factor)
            right_side.append(value)

        for d, n in enumerate(self.tables.n_choices):
            add([(int(self._first[d]) + k, 1.0) for k in range(n)], 1.0)
        for p, (left, right) in enumerate(self._operands):
            n, m = int(self.tables.n_choices[left]), int(self.tables.n_choices[right])
            pair = int(self._pair_first[p]) + np.arange(n * m).reshape(n, m)
            for i in range(n):
                add([(int(c), 1.0) for c in pair[i]] + [(int(self._first[left]) + i, -1.0)], 0.0)
            for j in range(m):
                add([(int(c), 1.0) for c in pair[:, j]] + [(int(self._first[right]) + j, -1.0)], 0.0)
        return coo_array((values, (rows, columns)), shape=(len(right_side), self._n)).tocsr(), np.array(right_side)
