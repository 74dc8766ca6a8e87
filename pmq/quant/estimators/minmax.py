"""Range from the minimum to the maximum, including outliers."""

from __future__ import annotations

from torch import Tensor

from pmq.quant.estimators.base import RangeEstimator, register
from pmq.quant.ranges import Fit, Range


@register
class MinMax(RangeEstimator):
    """Estimator of the range from the smallest to the largest sample."""

    name = "minmax"

    def _estimate(self, x: Tensor, low: Tensor, high: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None) -> Range:
        return low, high
