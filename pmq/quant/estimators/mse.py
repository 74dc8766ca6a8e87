"""Range whose quantizer has the smallest squared error on the samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pmq.quant.estimators.base import RangeEstimator, register
from pmq.quant.ranges import Fit, Range, near, squared_error

#: factors by which both ends shrink; at two bits, the best range of a long-tailed tensor is a small part of the full range
_TOGETHER = tuple(0.96**i for i in range(60))
#: factors on a single end, tried first where a few values are far larger than the others
_FAR = tuple(0.5**i for i in range(25))
#: number of values that are quantized in one call, as the cost of small tensors is that of the calls
_AT_ONCE = 1 << 14
#: factors on a single end, relative to the best common factor
_ALONE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2.0)


@register
class MeanSquaredError(RangeEstimator):
    """Estimator that shrinks both ends together, then each alone, and selects each row's range of least squared error."""

    name = "mse"
    weighted = False

    def _estimate(self, x: Tensor, low: Tensor, high: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None) -> Range:
        best = _Best(x, fit, low, high, weight if self.weighted else None)
        if self.weighted and not bool(near(x).all()):
            for factor in _FAR:
                best.offer(best.low, high * factor)
            for factor in _FAR:
                best.offer(low * factor, best.high)
        best.offer_all(_TOGETHER)
        if not symmetric:
            for factor in _ALONE:
                best.offer((best.low * factor).clamp(min=low), best.high)
            for factor in _ALONE:
                best.offer(best.low, (best.high * factor).clamp(max=high))
        return best.low, best.high


@register
class FisherWeighted(MeanSquaredError):
    """Estimator that weights each squared error by the squared gradient of the model's log-likelihood at its position.

    Summed over a tensor, this is the second-order change of the output's KL divergence, if errors are independent. Without
    gradients (as for weights, whose rounding is compensated instead), the squared error is not weighted.
    """

    name = "fisher"
    weighted = True


class _Best:
    """Best range so far of each row, with its error."""

    def __init__(self, x: Tensor, fit: Fit, low: Tensor, high: Tensor, weight: Tensor | None) -> None:
        self.x, self.fit, self.low, self.high, self.weight = x, fit, low, high, weight
        self.error = torch.full_like(low, torch.inf)

    def offer_all(self, factors: Sequence[float]) -> None:
        """Try both ends multiplied by each factor; the first of several factors with equal errors is selected."""
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
            best = errors.argmin(0, keepdim=True)
            self._update(*(values.gather(0, best)[0] for values in (errors, lows, highs)))

    def offer(self, low: Tensor, high: Tensor) -> None:
        """Try a range for each row."""
        self._update(squared_error(self.x, self.fit(low, high)(self.x), self.weight), low, high)

    def _update(self, error: Tensor, low: Tensor, high: Tensor) -> None:
        """Replace the range of the rows whose error is less."""
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.low = torch.where(better, low, self.low)
        self.high = torch.where(better, high, self.high)
