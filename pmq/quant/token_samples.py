"""Samples of an activation whose tokens have individual bit-widths, from which a grid is fitted for each bit-width."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.quant.quantizers import Quantizer
from pmq.quant.samples import Samples
from pmq.quant.weights import fit


class TokenSamples:
    """Values at the positions of ``samples``, with their tokens' bit-widths and the range of each bit-width's tokens."""

    def __init__(self, samples: Samples) -> None:
        self._values, self._bits = samples.again(), samples.again()
        self._ends: dict[int, tuple[Tensor, Tensor]] = {}
        self._unused = torch.Generator()  # the sampled positions are already drawn

    def add(self, rows: Tensor, bits: Tensor, largest: Tensor) -> None:
        """Add the values ``(heads, n)`` of a batch, with the bit-width and the largest magnitude of each value's token."""
        self._values.add(rows, 1.0, self._unused, largest)
        self._bits.add(bits, 1.0, self._unused)
        for width in map(int, bits.unique()):
            low = rows.masked_fill(bits != width, torch.inf).amin(1, keepdim=True)
            high = rows.masked_fill(bits != width, -torch.inf).amax(1, keepdim=True)
            before = self._ends.get(width, (low, high))
            self._ends[width] = torch.minimum(low, before[0]), torch.maximum(high, before[1])

    def fit(self, choices: Mapping[int, Choice]) -> dict[int, Quantizer]:
        """Return fitted quantizers by bit-width; bit-widths of ``choices`` that no token has are omitted."""
        values, weights = self._values.compute(heads=True)
        bits = self._bits.compute(heads=True)[0][0, :-2]  # the last two are the minimum and maximum of all tokens
        quantizers = {}
        for width, choice in choices.items():
            if width not in self._ends:
                continue
            if choice.quantizer == "relative":
                of_width = (bits == width).repeat(len(values))
                shares, share_weights = (x[:, of_width] for x in self._values.relative())
                quantizers[width] = fit(shares, choice, share_weights)
                continue
            of_width, ends = bits == width, torch.cat(self._ends[width], 1)
            rows = torch.cat([values[:, :-2][:, of_width], ends], 1)
            row_weights = None if weights is None else torch.cat([weights[:, :-2][:, of_width], torch.ones_like(ends)], 1)
            if choice.granularity != "head":
                rows, row_weights = rows.reshape(1, -1), None if row_weights is None else row_weights.reshape(1, -1)
            quantizers[width] = fit(rows, choice, row_weights)
        return quantizers

    def fit_all(self, choice: Choice) -> Quantizer:
        """Return a quantizer that is fitted to all tokens."""
        return self._values.fit(choice)
