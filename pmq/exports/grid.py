"""Even grids of integers: what other tools hold of a quantizer, and how an uneven one is widened to a grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Levels ``(k - zero_point) * scale`` for ``k`` from 0 to ``2**bits - 1``.

    Attributes:
        bits: bit-width.
        scale: ``(1,)`` or ``(H,)`` for an activation, with one value per head; ``(O, G)`` for a weight, one per group of inputs.
        zero_point: integers in the same shape.
        symmetric: whether zero is the middle integer, ``2**(bits - 1)``.

    >>> grid = Grid(2, np.array([0.5]), np.array([1.0]))
    >>> grid.low, grid.high
    (array([-0.5]), array([1.]))
    """

    bits: int
    scale: Array
    zero_point: Array
    symmetric: bool = False

    @property
    def low(self) -> Array:
        """The lowest level."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> Array:
        """The highest level."""
        return (2**self.bits - 1 - self.zero_point) * self.scale

    def containing(self, bits: int) -> Grid:
        """Return the grid of more bits with the same scale, which has all levels of this one.

        >>> Grid(3, np.array([1.0]), np.array([4.0]), symmetric=True).containing(4).low
        array([-8.])
        """
        zero_point = np.full_like(self.zero_point, 2 ** (bits - 1)) if self.symmetric else self.zero_point
        return replace(self, bits=bits, zero_point=zero_point)

    @classmethod
    def covering(cls, low: float, high: float, bits: int) -> Grid:
        """Return the grid of one scale from ``low`` to ``high``, widened to include zero, which is a level.

        >>> grid = Grid.covering(-1.0, 2.0, 2)
        >>> grid.scale, grid.zero_point
        (array([1.]), array([1.]))
        """
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (2**bits - 1) or 1.0
        return cls(bits, np.array([scale]), np.clip(np.round(np.array([-low / scale])), 0, 2**bits - 1))
