"""Samples of an activation: some of its values, always at the same places, and how much an error matters there."""

from __future__ import annotations

import torch
from torch import Tensor

#: values kept of each activation; its smallest and largest are always among them
SAMPLES = 2**15
#: weight that every sample has beside its squared gradient, relative to the mean of those: gradients of few images are noisy
EVEN = 0.3


class Samples:
    """Values of an activation laid out as rows ``(heads, K)``, gathered batch by batch.

    The first gathering draws places; :meth:`again` starts one that takes the same places, where the weights hold too.
    """

    def __init__(self, places: list[Tensor] | None = None, weights: list[Tensor] | None = None) -> None:
        self._places = places or []
        self._drawn = places is not None
        self._weights = weights or []
        self._values: list[Tensor] = []
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def add(self, rows: Tensor, share: float, generator: torch.Generator) -> None:
        """Add a batch ``(heads, n)`` that is ``share`` of all images."""
        heads, n = rows.shape
        batch = len(self._values)
        if not self._drawn:
            count = min(n, max(1, round(SAMPLES * share / heads)))
            self._places.append(torch.randint(n, (count,), generator=generator))
        low, high = torch.aminmax(rows, dim=1, keepdim=True)
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)
        self._values.append(rows[:, self._places[batch].to(rows.device)].float())

    def weigh(self, rows: Tensor) -> None:
        """Add the squared gradients ``(heads, n)`` of the batch added last."""
        self._weights.append(rows[:, self._places[len(self._weights)].to(rows.device)].float())

    def again(self) -> Samples:
        """Start another gathering at the same places with the same weights."""
        return Samples(self._places, self._weights)

    def finite(self) -> bool:
        """Whether all values seen so far were."""
        return self._low is not None and self._high is not None and bool((self._low.isfinite() & self._high.isfinite()).all())

    def compute(self, heads: bool = False) -> tuple[Tensor, Tensor | None]:
        """Values and weights ``(R, K)``: a row for each head, or one for all; both ends are the last values."""
        assert self._low is not None and self._high is not None
        values = torch.cat([*self._values, self._low, self._high], 1)
        weights = None
        if self._weights:
            weights = torch.cat(self._weights, 1)
            mean = weights.mean().clamp(min=1e-30)
            weights = weights / mean + EVEN
            weights = torch.cat([weights, torch.ones_like(self._low), torch.ones_like(self._high)], 1)
        if heads:
            return values, weights
        return values.reshape(1, -1), None if weights is None else weights.reshape(1, -1)
