"""The search's whole world: a few NumPy arrays, and costs of many genomes at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pmq.core.budget import Limits
from pmq.core.choice import FLOAT
from pmq.cost.table import CostModel, component_bytes, grid_ops
from pmq.search.space import Space
from pmq.search.superposition import Superposition
from pmq.sensitivity.table import SensitivityTable

#: genomes evaluated at once: as many as the processor's cache holds the intermediate values of
_CHUNK = 512
Floats = NDArray[np.float64]
Genomes = NDArray[np.int64]


@dataclass(frozen=True)
class Tables:
    """Decision x choice tables. Rows shorter than the longest are padded; ``n_choices`` says where they end.

    Attributes:
        error, size, ops, bits: ``(D, K)``; predicted error, bytes, bit operations outside products, and bits of each choice.
            All but the bits are sums over tied components.
        n_choices: ``(D,)``.
        left, right: ``(P,)`` decisions of the operands of each product; ``macs`` ``(P,)``.
        rest_bytes: bytes outside all components.
        predict: gives errors of genomes ``(B, D)`` -> ``(B,)`` where they are not the sum of ``error``.
    """

    error: Floats
    size: Floats
    ops: Floats
    bits: Floats
    n_choices: Genomes
    left: Genomes
    right: Genomes
    macs: Floats
    rest_bytes: float
    predict: Callable[[Genomes], Floats] | None = None

    @classmethod
    def build(cls, space: Space, sensitivity: SensitivityTable) -> Tables:
        """Collect what the search needs of a space, its model and a sensitivity table."""
        inventory, decisions = space.inventory, space.decisions
        shape = (len(decisions), max(len(d) for d in decisions))
        error, size, ops, bits = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.full(shape, 32.0)
        where = {}
        for d, decision in enumerate(decisions):
            for name, choices in zip(decision.components, decision.choices, strict=True):
                where[name] = d
                for k, choice in enumerate(choices):
                    error[d, k] += sensitivity.get(name, choice)
                    size[d, k] += component_bytes(inventory[name], choice)
                    ops[d, k] += grid_ops(inventory[name], choice)
                    bits[d, k] = choice.bits
        operators = inventory.operators
        return cls(
            error,
            size,
            ops,
            bits,
            np.array([len(d) for d in decisions]),
            np.array([where[op.operands[0]] for op in operators]),
            np.array([where[op.operands[1]] for op in operators]),
            np.array([float(op.macs) for op in operators]),
            float(inventory.rest_bytes),
            Superposition(space, sensitivity.effects, shape[1]) if sensitivity.effects else None,
        )

    def evaluate(self, genomes: Genomes) -> Floats:
        """Predicted error, bytes and bit operations: ``(B, D)`` -> ``(B, 3)``."""
        first = np.arange(len(self.n_choices)) * self.error.shape[1]
        error, size, ops, bits = (table.ravel() for table in (self.error, self.size, self.ops, self.bits))
        costs = np.empty((len(genomes), 3))
        for start in range(0, len(genomes), _CHUNK):
            flat = genomes[start : start + _CHUNK] + first
            b = bits.take(flat)
            part = costs[start : start + _CHUNK]
            part[:, 0] = error.take(flat).sum(1)
            part[:, 1] = size.take(flat).sum(1) + self.rest_bytes
            part[:, 2] = (b[:, self.left] * b[:, self.right]) @ self.macs + ops.take(flat).sum(1)
        if self.predict is not None:
            costs[:, 0] = self.predict(genomes)
        return costs

    def cheapest(self) -> tuple[float, float]:
        """Bytes and bit operations that no allocation of the space is below; there are ones that have either."""
        valid = np.arange(self.size.shape[1]) < self.n_choices[:, None]
        size = np.where(valid, self.size, np.inf).min(1).sum() + self.rest_bytes
        bits = np.where(valid, self.bits, np.inf).min(1)
        own = np.where(valid, self.ops, np.inf).min(1).sum()
        return float(size), float((bits[self.left] * bits[self.right]) @ self.macs + own)

    def dearest(self) -> tuple[float, float]:
        """Largest bytes and bit operations any allocation of the space has."""
        last = self.n_choices - 1
        _, size, ops = self.evaluate(last[None])[0]
        return float(size), float(ops)


class UniformCosts:
    """Costs of uniform allocations, as budgets want them; fractions of a bit interpolate linearly between whole bits."""

    def __init__(self, space: Space) -> None:
        self._space, self._costs = space, CostModel(space.inventory)
        fp32 = dict.fromkeys(space.inventory.names, FLOAT)
        self.fp32_bytes = float(self._costs.size_bytes(fp32))

    def uniform(self, weight_bits: float, activation_bits: float) -> tuple[float, float]:
        """Bytes and bit operations of uniform ``weight_bits`` and ``activation_bits``, the space's pins included."""
        size = ops = 0.0
        for w, w_share in _neighbours(weight_bits):
            for a, a_share in _neighbours(activation_bits):
                assignment = self._space.uniform(w, a)
                size += w_share * a_share * self._costs.size_bytes(assignment)
                ops += w_share * a_share * self._costs.bit_ops(assignment)
        return size, ops


def _neighbours(bits: float) -> list[tuple[int, float]]:
    low = int(bits)
    return [(low, 1.0)] if low == bits else [(low, low + 1 - bits), (low + 1, bits - low)]


def within(limits: Limits, costs: Floats) -> NDArray[np.bool_]:
    """Which rows ``(B, 3)`` of (error, bytes, bit operations) are within the limits: ``(B,)``."""
    inside = np.ones(len(costs), bool)
    for column, limit in ((1, limits.size_bytes), (2, limits.bit_ops)):
        if limit is not None:
            inside &= costs[:, column] <= limit
    return inside
