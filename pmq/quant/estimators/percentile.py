"""Range without its extreme tails."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.quant.estimators.base import RangeEstimator, register
from pmq.quant.ranges import Fit, Range

#: fraction of the samples that is excluded on each side
TAIL = 1e-4


@register
class Percentile(RangeEstimator):
    """Estimator of the range that excludes one sample in ten thousand on each side."""

    name = "percentile"

    def _estimate(self, x: Tensor, low: Tensor, high: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None) -> Range:
        ordered = x.sort(1).values
        k = round(TAIL * (x.shape[1] - 1))
        return torch.minimum(ordered[:, k : k + 1], high), torch.maximum(ordered[:, -1 - k :][:, :1], low)
