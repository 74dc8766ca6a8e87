"""Types that quantizers and range estimators share: ranges, and the grids that are fitted to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

#: lowest and highest value of each row ``(R, 1)``
Range = tuple[Tensor, Tensor]


class Grid(Protocol):
    """A quantizer as far as a range estimator knows it: it rounds values to its levels."""

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize ``(R, K)``."""
        ...


#: builds the grid of a range ``(low, high)``, whose error a range estimator may measure
Fit = Callable[[Tensor, Tensor], Grid]


class EstimatesRanges(Protocol):
    """A range estimator as far as a quantizer knows it; see :class:`pmq.quant.estimators.RangeEstimator`."""

    def estimate(self, x: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None = None) -> Range:
        """Estimate the range of each row of samples ``(R, K)``."""
        ...

    def check(self, x: Tensor) -> Range:
        """Return the minimum and maximum of each row; raise if a sample is not finite."""
        ...


def squared_error(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the weighted mean squared error of each row: ``(R, K)``, ``(R, K)`` -> ``(R, 1)``."""
    error = (y - x).square_()
    return (error if weight is None else error.mul_(weight)).mean(1, keepdim=True)
