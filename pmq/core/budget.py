"""Budgets of costs, and their grammar.

``4bit``, ``4.5bit``      weight bytes and bit operations no larger than uniform 4 (4.5) bit
``w4a8``                  the same with 4-bit weights and 8-bit activations
``0.15x``                 bytes no larger than 0.15 of the FP32 model's
``size=3MB``              bytes; decimal units: kB, MB, GB
``bitops=4G``             bit operations for one image; M, G, T
``latency=12ms``          measured milliseconds for one batch on a target; us, ms, s
``size=3MB,bitops=4G``    all of them
``agreement>=99``         the other way round: the fewest bytes (or milliseconds, where measured) at which so many
                         percent of decisions are FP32's
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass, field, replace
from itertools import zip_longest
from typing import Protocol

from pmq.core.errors import PmqError

GRAMMAR = "4bit, 4.5bit, w4a8, 0.15x, size=3MB, bitops=4G, latency=12ms, agreement>=99, or several with commas"
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_SIZE_UNITS = {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_TIME_UNITS = {"": 1.0, "US": 1e-3, "MS": 1.0, "S": 1e3}
_COUNT_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


class Costs(Protocol):
    """The costs of a model that a budget refers to."""

    fp32_bytes: float

    def uniform(self, weight_bits: float, activation_bits: float) -> tuple[float, float]:
        """Return the bytes and bit operations of a uniform allocation."""
        ...


@dataclass(frozen=True)
class Limits:
    """Cost limits; ``None`` is unlimited."""

    size_bytes: float | None = None
    bit_ops: float | None = None
    latency_ms: float | None = None

    @property
    def bounds(self) -> list[tuple[int, float]]:
        """Index of each limited cost, in the order of the fields, with its limit."""
        return [(index, value) for index, value in enumerate(astuple(self)) if value is not None]

    def allow(self, *costs: float) -> bool:
        """Return whether costs, in the order of the fields, are within the limits."""
        return all(costs[index] <= limit for index, limit in self.bounds)

    def scaled(self, factor: float) -> Limits:
        """Return all limits times ``factor``."""
        return Limits(*(value and value * factor for value in astuple(self)))

    def tighten(self, *limits: float | None) -> Limits:
        """Return the smaller of each limit, in the order of the fields."""
        pairs = zip_longest(astuple(self), limits)
        return Limits(*(min((x for x in pair if x is not None), default=None) for pair in pairs))


@dataclass(frozen=True)
class Budget:
    """A parsed budget. ``Budget.parse("4bit")`` makes one; :meth:`resolve` turns it into limits for a model.

    >>> Budget.parse("w4a8, size=3MB").limits
    Limits(size_bytes=3000000.0, bit_ops=None, latency_ms=None)

    ``agreement`` is the percent of decisions that must be those of FP32, in as few bytes or milliseconds as possible.
    """

    text: str
    uniform: tuple[tuple[float, float], ...] = ()
    limits: Limits = field(default_factory=Limits)
    ratio: float | None = None
    agreement: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse a budget.

        Raises:
            PmqError: the text does not follow the grammar.
        """
        budget = cls("".join(text.split()))
        for term in budget.text.split(","):
            budget = budget._with_term(term, text)
        return budget

    def _with_term(self, term: str, text: str) -> Budget:
        low = term.lower()
        if match := re.fullmatch(f"agreement>?={_NUMBER}%?", low):
            percent = float(match[1])
            if not 0 < percent < 100:
                raise PmqError(
                    f"budget {term!r}: {match[1]} percent is not between 0 and 100; FP32 alone agrees with itself always"
                )
            return replace(self, agreement=percent)
        if match := re.fullmatch(_NUMBER + "bits?", low):
            bits = _bits(match[1], term)
            return replace(self, uniform=(*self.uniform, (bits, bits)))
        if match := re.fullmatch(f"w{_NUMBER}a{_NUMBER}", low):
            pair = (_bits(match[1], term), _bits(match[2], term))
            return replace(self, uniform=(*self.uniform, pair))
        if match := re.fullmatch(_NUMBER + "x", low):
            ratio = _positive(match[1], term)
            return replace(self, ratio=min(ratio, self.ratio or ratio))
        if match := re.fullmatch(f"size={_NUMBER}([kmg]?b?)", low):
            size = _positive(match[1], term) * _unit(match[2], _SIZE_UNITS, term)
            return replace(self, limits=self.limits.tighten(size))
        if match := re.fullmatch(f"bitops={_NUMBER}([kmgt]?)", low):
            ops = _positive(match[1], term) * _unit(match[2], _COUNT_UNITS, term)
            return replace(self, limits=self.limits.tighten(None, ops))
        if match := re.fullmatch(f"latency={_NUMBER}(us|ms|s|)", low):
            latency = _positive(match[1], term) * _unit(match[2], _TIME_UNITS, term)
            return replace(self, limits=self.limits.tighten(None, None, latency))
        raise PmqError(f"budget {text!r}: {term!r} is not understood; write {GRAMMAR}")

    def resolve(self, costs: Costs) -> Limits:
        """Return the cost limits of the budget for a model."""
        limits = self.limits
        for weight_bits, activation_bits in self.uniform:
            limits = limits.tighten(*costs.uniform(weight_bits, activation_bits))
        if self.ratio is not None:
            limits = limits.tighten(self.ratio * costs.fp32_bytes)
        return limits


def _positive(number: str, term: str) -> float:
    value = float(number)
    if value <= 0:
        raise PmqError(f"budget {term!r} is not positive; write {GRAMMAR}")
    return value


def _bits(number: str, term: str) -> float:
    value = float(number)
    if not (2 <= value <= 8 or value == 32):
        raise PmqError(f"budget {term!r}: {number} bits are outside 2 to 8 (or 32 for FP32)")
    return value


def _unit(unit: str, units: dict[str, float], term: str) -> float:
    if unit.upper() not in units:
        raise PmqError(f"budget {term!r}: unit {unit!r} is not one of {', '.join(u for u in units if u)}")
    return units[unit.upper()]
