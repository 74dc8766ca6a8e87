"""The range whose quantizer makes the smallest squared error on the samples."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.quant.estimators.base import Fit, Range, RangeEstimator, register
from pmq.quant.quantizers.base import squared_error

#: factors by which both ends shrink; at two bits the best range of a long-tailed tensor is a small part of the whole
_TOGETHER = tuple(0.96**i for i in range(60))
#: factors on one end, around the best common one
_ALONE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2.0)


@register
class MeanSquaredError(RangeEstimator):
    """Shrink both ends together, then each alone, keeping for every row what has the least squared error."""

    name = "mse"
    weighed = False

    def _estimate(self, x: Tensor, low: Tensor, high: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None) -> Range:
        best = _Best(x, fit, low, high, weight if self.weighed else None)
        for factor in _TOGETHER:
            best.offer(low * factor, high * factor)
        if not symmetric:
            for factor in _ALONE:
                best.offer((best.low * factor).clamp(min=low), best.high)
            for factor in _ALONE:
                best.offer(best.low, (best.high * factor).clamp(max=high))
        return best.low, best.high


@register
class FisherWeighted(MeanSquaredError):
    """The same with each error weighed by the squared gradient of the model's log-likelihood where it is made.

    Summed over a tensor that is the second-order change of the output's KL divergence, were errors independent. Without
    gradients (as for weights, whose rounding is compensated instead) it is the plain squared error.
    """

    name = "fisher"
    weighed = True


class _Best:
    """The best range so far of each row."""

    def __init__(self, x: Tensor, fit: Fit, low: Tensor, high: Tensor, weight: Tensor | None) -> None:
        self.x, self.fit, self.low, self.high, self.weight = x, fit, low, high, weight
        self.error = torch.full_like(low, torch.inf)

    def offer(self, low: Tensor, high: Tensor) -> None:
        error = squared_error(self.x, self.fit(low, high)(self.x), self.weight)
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.low = torch.where(better, low, self.low)
        self.high = torch.where(better, high, self.high)
