"""Types that quantizers and range estimators share: ranges, and the grids that are fitted to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

#: how many times the 99th percentile of magnitudes a value may be to get weight that does not come from its own gradient
FAR = 64.0

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


def near(values: Tensor) -> Tensor:
    """Return 1 for each value ``(R, K)`` that is not far larger than the others of its row, else 0.

    Large models store that there is nothing to see in a few tokens, by values a thousand times as large as all others that hardly
    anything reads. Any weight but that of their gradients would make a range cover them, and leave nothing for the others.
    """
    magnitudes = values.abs()
    far = FAR * magnitudes.quantile(0.99, dim=1, keepdim=True)
    return ((magnitudes <= far) | (far == 0)).to(values.dtype)
