"""The range whose quantizer makes the smallest squared error on the samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pmq.quant.estimators.base import RangeEstimator, register
from pmq.quant.ranges import Fit, Range, squared_error

#: factors by which both ends shrink; at two bits the best range of a long-tailed tensor is a small part of the whole
_TOGETHER = tuple(0.96**i for i in range(60))
#: values that are quantized at once: little tensors cost what calls cost
_AT_ONCE = 1 << 14
#: factors on one end, around the best common one
_ALONE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2.0)


@register
class MeanSquaredError(RangeEstimator):
    """Shrink both ends together, then each alone, keeping for every row what has the least squared error."""

    name = "mse"
    weighed = False

    def _estimate(self, x: Tensor, low: Tensor, high: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None) -> Range:
        best = _Best(x, fit, low, high, weight if self.weighed else None)
        best.offer_all(_TOGETHER)
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

    def offer_all(self, factors: Sequence[float]) -> None:
        """Offer both ends times each of some factors; of equal ones the first counts."""
        low, high, rows = self.low, self.high, len(self.low)
        count = max(1, _AT_ONCE // max(self.x.numel(), 1))
        for first in range(0, len(factors), count):
            scales = torch.tensor(factors[first : first + count]).to(low)[:, None, None]
            if len(scales) == 1:
                self.offer(low * scales[0], high * scales[0])
                continue
            lows, highs = low * scales, high * scales
            x = self.x.repeat(len(scales), 1)
            weight = None if self.weight is None else self.weight.repeat(len(scales), 1)
            errors = squared_error(x, self.fit(lows.reshape(-1, 1), highs.reshape(-1, 1))(x), weight)
            errors = errors.reshape(len(scales), rows, 1).nan_to_num(nan=torch.inf)
            at = errors.argmin(0, keepdim=True)
            self._take(*(each.gather(0, at)[0] for each in (errors, lows, highs)))

    def offer(self, low: Tensor, high: Tensor) -> None:
        self._take(squared_error(self.x, self.fit(low, high)(self.x), self.weight), low, high)

    def _take(self, error: Tensor, low: Tensor, high: Tensor) -> None:
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.low = torch.where(better, low, self.low)
        self.high = torch.where(better, high, self.high)
