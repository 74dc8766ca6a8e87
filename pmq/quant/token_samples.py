"""Samples of an activation whose tokens have bits of their own: a grid for the tokens of each bit-width alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.quant.quantizers import Quantizer
from pmq.quant.samples import Samples
from pmq.quant.weights import fit


class TokenSamples:
    """Gathers values at the places of ``samples``, with their tokens' bits and the ends of each bit-width's tokens."""

    def __init__(self, samples: Samples) -> None:
        self._values, self._bits = samples.again(), samples.again()
        self._ends: dict[int, tuple[Tensor, Tensor]] = {}
        self._none = torch.Generator()  # places are drawn already

    def add(self, rows: Tensor, bits: Tensor) -> None:
        """Add values ``(heads, n)`` of a batch, and bits of the same."""
        self._values.add(rows, 1.0, self._none)
        self._bits.add(bits, 1.0, self._none)
        for width in map(int, bits.unique()):
            low = rows.masked_fill(bits != width, torch.inf).amin(1, keepdim=True)
            high = rows.masked_fill(bits != width, -torch.inf).amax(1, keepdim=True)
            before = self._ends.get(width, (low, high))
            self._ends[width] = torch.minimum(low, before[0]), torch.maximum(high, before[1])

    def fit(self, choices: Mapping[int, Choice]) -> dict[int, Quantizer]:
        """Quantizers of ``choices``, by bits; of those that no token has, nothing."""
        values, weights = self._values.compute(heads=True)
        bits = self._bits.compute(heads=True)[0][0, :-2]  # the last are ends of all tokens
        quantizers = {}
        for width, choice in choices.items():
            if width not in self._ends:
                continue
            of_width, ends = bits == width, torch.cat(self._ends[width], 1)
            rows = torch.cat([values[:, :-2][:, of_width], ends], 1)
            weighed = None if weights is None else torch.cat([weights[:, :-2][:, of_width], torch.ones_like(ends)], 1)
            if choice.granularity != "head":
                rows, weighed = rows.reshape(1, -1), None if weighed is None else weighed.reshape(1, -1)
            quantizers[width] = fit(rows, choice, weighed)
        return quantizers

    def fit_all(self, choice: Choice) -> Quantizer:
        """A quantizer of all tokens alike."""
        values, weights = self._values.compute(heads=choice.granularity == "head")
        return fit(values, choice, weights)
