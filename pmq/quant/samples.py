"""Samples of an activation: values at fixed random positions, weighted by the effect of an error at each of them."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.quant.quantizers import Quantizer
from pmq.quant.quantizers.base import positive
from pmq.quant.ranges import near
from pmq.quant.threads import threads_by_size
from pmq.quant.weights import fit

#: number of values sampled from each activation; its minimum and maximum are stored in addition
SAMPLES = 2**15
#: weight added to each sample's squared gradient, relative to their mean, as gradients of few images are noisy
EVEN = 0.3


class Samples:
    """Values of an activation as rows ``(heads, K)``, collected batch by batch.

    The first collection draws positions at random; :meth:`again` starts another one at the same positions, so that the
    weights remain valid.
    """

    def __init__(self, positions: list[Tensor] | None = None, weights: list[Tensor] | None = None) -> None:
        self._positions = positions or []
        self._drawn = positions is not None
        self._weights = weights or []
        self._values: list[Tensor] = []
        self._largest: list[Tensor] = []
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def add(self, rows: Tensor, share: float, generator: torch.Generator, largest: Tensor | None = None) -> None:
        """Add the values ``(heads, n)`` of a batch that contains the fraction ``share`` of all images.

        ``largest`` is the largest magnitude in the token of each value, in the same shape; :meth:`relative` needs it.
        """
        heads, n = rows.shape
        batch = len(self._values)
        if not self._drawn:
            count = min(n, max(1, round(SAMPLES * share / heads)))
            self._positions.append(torch.randint(n, (count,), generator=generator))
        low, high = torch.aminmax(rows, dim=1, keepdim=True)
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)
        positions = self._positions[batch].to(rows.device)
        self._values.append(rows[:, positions].float())
        if largest is not None:
            self._largest.append(largest[:, positions].float())

    def weigh(self, rows: Tensor) -> None:
        """Add the squared gradients ``(heads, n)`` of the next batch that has no weights yet."""
        self._weights.append(rows[:, self._positions[len(self._weights)].to(rows.device)].float())

    def again(self) -> Samples:
        """Return an empty collection at the same positions with the same weights."""
        return Samples(self._positions, self._weights)

    def finite(self) -> bool:
        """Return whether all values added so far are finite."""
        return self._low is not None and self._high is not None and bool((self._low.isfinite() & self._high.isfinite()).all())

    def relative(self) -> tuple[Tensor, Tensor]:
        """Return values as shares of the largest magnitude in their token, and weights of errors of the shares, ``(1, K)``.

        An error of a share is one of the value in proportion to that magnitude.
        """
        values, largest = torch.cat(self._values, 1), positive(torch.cat(self._largest, 1))
        weights = EVEN * near(largest)
        if self._weights:
            of_values = torch.cat(self._weights, 1)
            weights = weights + of_values / of_values.mean().clamp(min=1e-30)
        return (values / largest).reshape(1, -1), (weights * largest.square()).reshape(1, -1)

    def fit(self, choice: Choice) -> Quantizer:
        """Return the quantizer of ``choice``, fitted to the values."""
        values, weights = self.relative() if choice.quantizer == "relative" else self.compute(choice.granularity == "head")
        return fit(values, choice, weights)

    def compute(self, heads: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return values and weights ``(R, K)``, a row for each head or one for all; each head's minimum and maximum come last."""
        assert self._low is not None and self._high is not None
        values = torch.cat([*self._values, self._low, self._high], 1)
        if not self._weights:
            return (values if heads else values.reshape(1, -1)), None
        with threads_by_size(values.numel()):
            weights = torch.cat(self._weights, 1)
            weights = weights / weights.mean().clamp(min=1e-30)
            parts = (weights, 0.0), (torch.full_like(weights, EVEN), 1.0)
            weights, even = (torch.nn.functional.pad(part, (0, 2), value=of_ends) for part, of_ends in parts)
            if not heads:
                values, weights, even = (x.reshape(1, -1) for x in (values, weights, even))
            return values, weights + even * near(values)


def largest_in_token(x: Tensor) -> Tensor:
    """Return the largest magnitude along the last axis for each value of ``x``, in the shape of ``x``."""
    return x.abs().amax(-1, keepdim=True).expand_as(x)
