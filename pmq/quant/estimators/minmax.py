"""The whole range, outliers included."""

from __future__ import annotations

from torch import Tensor

from pmq.quant.estimators.base import RangeEstimator, register
from pmq.quant.ranges import Fit, Range


@register
class MinMax(RangeEstimator):
    """Smallest and largest sample."""

    name = "minmax"

    def _estimate(self, x: Tensor, low: Tensor, high: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None) -> Range:
        return low, high
