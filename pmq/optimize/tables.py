"""NumPy tables of errors and costs per decision and choice, and fast evaluation of many genomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pmq.core.budget import Limits
from pmq.core.choice import FLOAT, WidthChoice, bits_of
from pmq.core.component import Operator
from pmq.core.errors import PmqError
from pmq.cost.cost_model import CostModel, choice_ops, component_bytes
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.optimize.space import Space
from pmq.optimize.superposition import Superposition
from pmq.optimize.width_dependence import WidthDependence

#: number of genomes evaluated together, such that their intermediate values fit the processor's cache
_CHUNK = 512
Floats = NDArray[np.float64]
Genomes = NDArray[np.int64]


@dataclass(frozen=True)
class Tables:
    """Decision x choice tables. Rows shorter than the longest are padded; ``n_choices`` gives their lengths.

    Attributes:
        error, size, ops, bits: ``(D, K)``; predicted error, bytes, bit operations that depend on the choice alone, and bits
            of each choice. All but the bits are sums over tied components.
        n_choices: ``(D,)``.
        left, right: ``(P,)`` decisions of the operands of each product of two different decisions.
        macs: ``(P,)`` multiply-accumulates of each of these products.
        rest_bytes: bytes outside all components.
        predict: returns errors ``(B,)`` of genomes ``(B, D)`` where they are not the sum of ``error``.
        latency: ``(D, K)`` milliseconds, where they were measured; ``rest_ms`` are the milliseconds of everything else.
        widths: how the tables depend on the width decisions, if there are any.
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
    latency: Floats | None = None
    rest_ms: float = 0.0
    widths: WidthDependence | None = None

    @classmethod
    def build(cls, space: Space, sensitivity: SensitivityTable) -> Tables:
        """Build the tables from a space with its model's inventory, and a sensitivity table."""
        latency = space.latency
        inventory, decisions = space.inventory, space.decisions
        shape = (len(decisions), max(len(d) for d in decisions))
        error, size, ops, ms = (np.zeros(shape) for _ in range(4))
        bits = np.full(shape, 32.0)
        where = {}
        for d, decision in enumerate(decisions):
            for name, choices in zip(decision.components, decision.choices, strict=True):
                where[name] = d
                for k, choice in enumerate(choices):
                    if isinstance(choice, WidthChoice):
                        error[d, k] += sensitivity.get(name, choice) if name in sensitivity.errors else 0.0
                        continue
                    error[d, k] += sensitivity.get(name, choice)
                    bits[d, k] = choice.bits
                    size[d, k] += component_bytes(inventory[name], choice)
                    ops[d, k] += choice_ops(inventory[name], choice)
            if latency is not None and not isinstance(decision.choices[0][0], WidthChoice):
                for k in range(len(decision)):
                    ms[d, k] = latency.decision_ms(bits_of(decision.options(k)))
        inside: list[Operator] = []
        operators: list[Operator] = []
        for op in inventory.operators:
            same = where[op.operands[0]] == where[op.operands[1]]
            (inside if same else operators).append(op)
        if inventory.whole:  # linked operands are inside one decision, so that here one of the two has a fixed width
            for op in operators:
                for name, other in (op.operands, op.operands[::-1]):
                    d, fixed = where[name], decisions[where[other]].choices_of(other)
                    if len(decisions[where[other]]) == 1:
                        for k, choice in enumerate(decisions[d].choices_of(name)):
                            ops[d, k] += op.macs * choice.bits * fixed[0].bits
                        break
            operators = []
        for op in inside:
            d = where[op.operands[0]]
            left, right = (decisions[d].choices_of(name) for name in op.operands)
            for k in range(len(decisions[d])):
                ops[d, k] += op.macs * left[k].bits * right[k].bits
        for options in space.widths:
            d = where[options.name]
            size[d, : len(options.options)] = [(o.share - 1) * options.rest_bytes for o in options.options]
        if space.widths and sensitivity.effects:
            raise PmqError(
                f"metric {sensitivity.metric!r} does not support widths; choose another `metric`, or search without `prune`"
            )
        return cls(
            error,
            size,
            ops,
            bits,
            np.array([len(d) for d in decisions]),
            np.array([where[op.operands[0]] for op in operators], dtype=np.int64),
            np.array([where[op.operands[1]] for op in operators], dtype=np.int64),
            np.array([float(op.macs) for op in operators]),
            float(inventory.rest_bytes),
            Superposition(space, sensitivity.effects, shape[1]) if sensitivity.effects else None,
            None if latency is None else ms,
            0.0 if latency is None else latency.rest_ms,
            WidthDependence.build(space, [op.name for op in operators], shape[1]),
        )

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`evaluate` after the error."""
        return ("size_bytes", "bit_ops") if self.latency is None else ("size_bytes", "bit_ops", "latency_ms")

    def evaluate(self, genomes: Genomes) -> Floats:
        """Return error, bytes, bit operations and, where measured, milliseconds: ``(B, D)`` -> ``(B, 3)`` or ``(B, 4)``."""
        first = np.arange(len(self.n_choices)) * self.error.shape[1]
        error, size, ops, bits = (table.ravel() for table in (self.error, self.size, self.ops, self.bits))
        costs = np.empty((len(genomes), 1 + len(self.cost_names)))
        for start in range(0, len(genomes), _CHUNK):
            flat = genomes[start : start + _CHUNK] + first
            b = bits.take(flat)
            part = costs[start : start + _CHUNK]
            products = b[:, self.left] * b[:, self.right]
            errors = error.take(flat)
            part[:, 1] = size.take(flat).sum(1) + self.rest_bytes
            part[:, 2] = ops.take(flat).sum(1)
            if self.latency is not None:
                part[:, 3] = self.latency.ravel().take(flat).sum(1) + self.rest_ms
            if self.widths is not None:
                share, product_share = self.widths.factors(genomes[start : start + _CHUNK])
                errors, products = errors * share, products * product_share
                part[:, 1] -= (self.widths.size.ravel().take(flat) * (1 - share)).sum(1)
                part[:, 2] -= (self.widths.ops.ravel().take(flat) * (1 - share)).sum(1)
                if self.latency is not None:
                    part[:, 3] -= self.widths.saved_ms(genomes[start : start + _CHUNK]).sum(1)
            part[:, 0] = errors.sum(1)
            part[:, 2] += products @ self.macs
        if self.predict is not None:
            costs[:, 0] = self.predict(genomes)
        return costs

    def parts(self, genomes: Genomes) -> Floats:
        """Return the error of each decision ``(B, D)``."""
        errors = self.error[np.arange(len(self.n_choices)), genomes]
        return errors if self.widths is None else errors * self.widths.factors(genomes)[0]

    @property
    def decides_width(self) -> NDArray[np.bool_]:
        """Mask of the decisions that choose a width ``(D,)``."""
        if self.widths is None:
            return np.zeros(len(self.n_choices), bool)
        return np.isin(np.arange(len(self.n_choices)), self.widths.unit[self.widths.unit != np.arange(len(self.n_choices))])

    def at(self, genome: Genomes) -> Tables:
        """Return tables of the bits alone, under the widths of ``genome`` ``(D,)``; width decisions have one choice."""
        w, rows = self.widths, np.arange(len(self.n_choices))
        if w is None:
            return self
        fixed = self.decides_width
        share, product_share = (f[0] for f in w.factors(genome[None]))

        def first(table: Floats) -> Floats:
            table = table.copy()
            table[fixed, 0] = table[fixed, genome[fixed]]
            return table

        latency = self.latency
        if latency is not None and w.saved is not None:
            saved = w.saved[rows[:, None], np.arange(self.error.shape[1])[None], genome[w.unit][:, None]]
            latency = first(latency - np.where((w.unit == rows)[:, None], 0.0, saved))
        return replace(
            self,
            error=first(self.error * share[:, None]),
            size=first(self.size - w.size * (1 - share[:, None])),
            ops=self.ops - w.ops * (1 - share[:, None]),
            n_choices=np.where(fixed, 1, self.n_choices),
            macs=self.macs * product_share,
            latency=latency,
            widths=None,
        )

    def lower_bound(self) -> tuple[float, ...]:
        """Return a lower bound of each cost over all allocations; each bound is attained by some allocation."""
        if self.widths is not None:
            return self.at(np.zeros(len(self.n_choices), dtype=np.int64)).lower_bound()
        valid = np.arange(self.size.shape[1]) < self.n_choices[:, None]
        size = np.where(valid, self.size, np.inf).min(1).sum() + self.rest_bytes
        bits = np.where(valid, self.bits, np.inf).min(1)
        choice_ops = np.where(valid, self.ops, np.inf).min(1).sum()
        bounds = [float(size), float((bits[self.left] * bits[self.right]) @ self.macs + choice_ops)]
        if self.latency is not None:
            bounds.append(float(np.where(valid, self.latency, np.inf).min(1).sum() + self.rest_ms))
        return tuple(bounds)

    def upper_bound(self) -> tuple[float, ...]:
        """Return an upper bound of each cost over all allocations."""
        if self.widths is not None:
            return self.at(self.n_choices - 1).upper_bound()
        valid = np.arange(self.size.shape[1]) < self.n_choices[:, None]
        bits = np.where(valid, self.bits, 0).max(1)
        size, choice_ops = (float(np.where(valid, table, 0).max(1).sum()) for table in (self.size, self.ops))
        bounds = [size + self.rest_bytes, float((bits[self.left] * bits[self.right]) @ self.macs) + choice_ops]
        if self.latency is not None:
            bounds.append(float(np.where(valid, self.latency, -np.inf).max(1).sum() + self.rest_ms))
        return tuple(bounds)


class UniformCosts:
    """Costs of uniform allocations, for budgets; fractions of a bit interpolate linearly between whole bits."""

    def __init__(self, space: Space) -> None:
        self._space, self._costs = space, CostModel(space.inventory)
        fp32 = dict.fromkeys(space.inventory.names, FLOAT)
        self.fp32_bytes = float(self._costs.size_bytes(fp32))

    def uniform(self, weight_bits: float, activation_bits: float) -> tuple[float, float]:
        """Return bytes and bit operations of uniform ``weight_bits`` and ``activation_bits``, including the space's pins."""
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
    """Mark the rows ``(B, 1 + costs)`` of :meth:`Tables.evaluate` that are within the limits: ``(B,)``."""
    inside = np.ones(len(costs), bool)
    for index, limit in limits.bounds:
        inside &= costs[:, 1 + index] <= limit
    return inside
