"""The search's whole world: a few NumPy arrays, and costs of many genomes at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pmq.core.budget import Limits
from pmq.core.choice import FLOAT
from pmq.cost.table import CostModel, component_bytes, grid_ops
from pmq.search.space import Space
from pmq.sensitivity.table import SensitivityTable

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
        )

    def evaluate(self, genomes: Genomes) -> Floats:
        """Predicted error, bytes and bit operations: ``(B, D)`` -> ``(B, 3)``."""
        rows = np.arange(len(self.n_choices))
        bits = self.bits[rows, genomes]
        return np.stack(
            [
                self.error[rows, genomes].sum(1),
                self.size[rows, genomes].sum(1) + self.rest_bytes,
                (bits[:, self.left] * bits[:, self.right]) @ self.macs + self.ops[rows, genomes].sum(1),
            ],
            axis=1,
        )

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
