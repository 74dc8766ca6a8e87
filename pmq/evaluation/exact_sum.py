"""Sums of floats without rounding, so that neither their order nor their grouping matters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: every finite double is a whole number of units of ``2 ** -_UNIT``
_UNIT = 1074


@dataclass(frozen=True)
class ExactSum:
    """Sum of doubles as one integer: partial sums of workers add up to the same value in any order.

    A double is ``n / 2**k`` with ``k <= 1074``, so the sum is an integer number of units of ``2**-1074`` and loses nothing
    (the "small superaccumulator" of Neal, 1505.05571, with Python's integers as digits). Only :meth:`__float__` rounds, once.

    >>> float(ExactSum.of([1e100, 1.0, -1e100])), float(ExactSum.of([0.1] * 10))
    (1.0, 1.0)
    >>> ExactSum.of([0.1, 0.2]) + ExactSum.of([0.3]) == ExactSum.of([0.3, 0.2]) + ExactSum.of([0.1])
    True
    """

    units: int = 0
    #: sum of the values that are not finite; 0 if all are
    special: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> ExactSum:
        """Sum up values."""
        return cls().plus(values)

    def plus(self, values: Iterable[float]) -> ExactSum:
        """Return the sum with further values."""
        units, special = self.units, self.special
        for value in values:
            if math.isfinite(value):
                units += _units(value)
            else:
                special += value
        return ExactSum(units, special)

    def __add__(self, other: ExactSum) -> ExactSum:
        return ExactSum(self.units + other.units, self.special + other.special)

    def __float__(self) -> float:
        return self.special if self.special != 0 else self.units / (1 << _UNIT)

    def __bool__(self) -> bool:
        return self.units != 0 or self.special != 0

    def to_json(self) -> float | list[float]:
        """Return the rounded sum, followed by what rounding lost if it lost something; :meth:`from_json` restores the sum.

        >>> ExactSum.of([0.5, 0.25]).to_json(), ExactSum.of([1.0, 1e-20]).to_json()
        (0.75, [1.0, 1e-20])
        """
        parts, rest = [float(self)], self.units
        while self.special == 0 and (rest := rest - _units(parts[-1])):
            parts.append(rest / (1 << _UNIT))
        return parts[0] if len(parts) == 1 else parts

    @classmethod
    def from_json(cls, value: float | list[float]) -> ExactSum:
        """Restore a sum."""
        return cls.of(value if isinstance(value, list) else [value])


#: the sum of no values
ZERO = ExactSum()


def _units(value: float) -> int:
    numerator, denominator = float(value).as_integer_ratio()
    return numerator << (_UNIT + 1 - denominator.bit_length())
