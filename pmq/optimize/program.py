"""The linear program of the additive problem: its variables, its equalities, and the cost coefficients of each variable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from pmq.core.budget import Limits
from pmq.optimize.tables import Floats, Genomes, Tables


class Program:
    """Linear program with a variable per choice of each decision, and per *pair* of choices of a product's two operands.

    Bit operations multiply the bits of two operands; with the pairs they are linear. The sums of pairs over rows and columns
    must equal the operands' own choice variables, so integer choices make the pairs integer.

    Attributes:
        first: index of the first variable of each decision, followed by the number of choice variables.
        n_choices: number of choice variables, which precede the pair variables.
        n: number of all variables.
        links: equalities over the variables, including one choice per decision; ``values`` are their right-hand sides.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables, t = tables, tables
        self.first = np.concatenate([[0], np.cumsum(t.n_choices)])
        self.n_choices = int(self.first[-1])
        n_pairs = [int(t.n_choices[left] * t.n_choices[right]) for left, right in self.operands]
        self._pair_first = self.n_choices + np.concatenate([[0], np.cumsum(n_pairs)]).astype(int)
        self.n = int(self._pair_first[-1])
        self._valid = np.arange(t.size.shape[1]) < t.n_choices[:, None]
        # coefficients and constant part of each cost
        self._costs = [(self.over_choices(t.size), t.rest_bytes), (self._bit_ops(), 0.0)]
        if t.latency is not None:
            self._costs.append((self.over_choices(t.latency), t.rest_ms))
        self.links, self.values = self._equalities()

    @property
    def operands(self) -> Iterator[tuple[int, int]]:
        """Iterate over the two decisions of each product."""
        return zip(self.tables.left, self.tables.right, strict=True)

    def over_choices(self, table: Floats) -> Floats:
        """Return the coefficients ``(n,)`` of a table ``(D, K)`` of values per choice."""
        flat = np.zeros(self.n)
        flat[: self.n_choices] = table[self._valid]
        return flat

    def rows(self, limits: Limits, near: tuple[Genomes, int] | None) -> tuple[Floats, Floats]:
        """Return inequalities ``rows @ x <= right``: the limits, each divided by itself, then the trust region."""
        rows, right = [np.zeros((0, self.n))], list[float]()
        for index, limit in limits.bounds:
            row, rest = self._costs[index]
            rows.append(row[None] / limit)
            right.append((limit - rest) / limit)
        if near is not None:
            genome, changes = near
            unchanged = np.zeros((1, self.n))
            unchanged[0, self.first[:-1] + genome] = -1
            rows.append(unchanged)
            right.append(changes - len(genome))
        return np.concatenate(rows), np.array(right)

    def genome(self, x: Floats) -> Genomes:
        """Return the genome ``(D,)`` of the largest variable of each decision."""
        return np.array([int(np.argmax(x[a:b])) for a, b in zip(self.first, self.first[1:], strict=False)])

    def affordable(self, reduced: Floats, spare: float) -> NDArray[np.bool_]:
        """Mark the variables ``(n,)`` that a solution can contain which costs at most ``spare`` more than the relaxed optimum.

        A solution that contains a choice also contains, for each of its products, a pair of that choice, so it costs at least
        the least reduced costs of those pairs more.

        Args:
            reduced: reduced costs ``(n,)`` of the relaxed optimum, none below zero.
            spare: in the objective's unit.
        """
        least = reduced[: self.n_choices].copy()
        for p, (left, right) in enumerate(self.operands):
            pairs = self._pair_view(reduced, p)
            least[self._choices(left)] += pairs.min(1)
            least[self._choices(right)] += pairs.min(0)
        chosen = least <= spare
        possible = np.concatenate([chosen, reduced[self.n_choices :] <= spare])
        for p, (left, right) in enumerate(self.operands):
            pairs = self._pair_view(possible, p)
            pairs &= np.outer(chosen[self._choices(left)], chosen[self._choices(right)])
        return possible

    def _choices(self, decision: int) -> slice:
        return slice(int(self.first[decision]), int(self.first[decision + 1]))

    def _pair_view(self, values: NDArray[Any], p: int) -> NDArray[Any]:
        """Return a view of the pairs of a product: the left operand's choices by the right operand's."""
        shape = (int(self.tables.n_choices[self.tables.left[p]]), int(self.tables.n_choices[self.tables.right[p]]))
        return values[self._pair_first[p] : self._pair_first[p + 1]].reshape(shape)

    def _bit_ops(self) -> Floats:
        t, row = self.tables, self.over_choices(self.tables.ops)
        for p, (left, right) in enumerate(self.operands):
            a, b = (t.bits[d, : t.n_choices[d]] for d in (left, right))
            row[self._pair_first[p] : self._pair_first[p + 1]] = (t.macs[p] * np.outer(a, b)).ravel()
        return row

    def _equalities(self) -> tuple[csr_array, Floats]:
        """Return the equalities: one choice per decision; sums of pairs equal the choice variables."""
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
            add([(int(self.first[d]) + k, 1.0) for k in range(n)], 1.0)
        for p, (left, right) in enumerate(self.operands):
            n, m = int(self.tables.n_choices[left]), int(self.tables.n_choices[right])
            pair = int(self._pair_first[p]) + np.arange(n * m).reshape(n, m)
            for i in range(n):
                add([(int(c), 1.0) for c in pair[i]] + [(int(self.first[left]) + i, -1.0)], 0.0)
            for j in range(m):
                add([(int(c), 1.0) for c in pair[:, j]] + [(int(self.first[right]) + j, -1.0)], 0.0)
        return coo_array((values, (rows, columns)), shape=(len(right_side), self.n)).tocsr(), np.array(right_side)
