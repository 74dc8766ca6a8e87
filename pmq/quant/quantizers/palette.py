"""Quantization of weights to free levels that all rows share, with a scale for each row."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Parameters, Quantizer, positive, register
from pmq.quant.quantizers.codebook import best_levels, nearest
from pmq.quant.quantizers.relative import MIDDLE
from pmq.quant.ranges import EstimatesRanges

#: steps of least squares by which the scales are fitted to the levels
STEPS = 2
#: number of values from which the levels are computed
SAMPLES = 1 << 16
#: smallest scale of a row relative to the largest one, and to the one before
LEAST = 1e-6


@register
class Palette(Quantizer):
    """Quantizer ``levels[code] * scale`` with one table of ``2**bits`` free levels for a weight, and a scale for each row.

    Rows of a weight differ in magnitude more than in the distribution of their values, which has a peak and long tails, so one
    table suits all of them once they are scaled alike. A level is an integer from -127 to 127 (stored with 127 added), so a
    runtime multiplies int8 integers, with a scale for each row, as it does for even levels.

    >>> q = Palette({"levels": torch.tensor([27.0, 117.0, 147.0, 254.0]), "scale": torch.tensor([[0.01], [0.1]])}, bits=2)
    >>> q(torch.tensor([[-0.9, 0.3], [3.0, 9.0]]))
    tensor([[-1.0000,  0.2000],
            [ 2.0000, 12.7000]])
    """

    name = "palette"
    shared = frozenset({"levels"})

    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        self.levels, self.scale, self.bits = parameters["levels"].reshape(-1), parameters["scale"], bits
        #: integers of the levels, from -127 to 127
        self.integers = self.levels - MIDDLE

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Return the levels as ascending integers from 0 to 254, and the scales."""
        return {"levels": self.levels, "scale": self.scale}

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest level of each row."""
        return self.integers[0] * self.scale, self.integers[-1] * self.scale

    @classmethod
    def fit(cls, x: Tensor, bits: int, symmetric: bool, estimator: EstimatesRanges, weight: Tensor | None = None) -> Palette:
        """Fit levels to rows that are scaled by their largest magnitudes, then scales to the levels; the estimator only checks.

        Rows scaled by their mean squares would need wider tables for their tails than 255 integers can be fine in.
        """
        low, high = estimator.check(x)
        weight = torch.ones_like(x) if weight is None else weight
        scale = torch.maximum(-low, high)
        scale = scale.maximum(LEAST * scale.max()).clamp(min=torch.finfo(x.dtype).tiny)
        shares, weights = (x / scale).reshape(-1), (weight * scale.square()).reshape(-1)
        if len(shares) > SAMPLES:  # a whole stride would meet the same taps of every kernel
            sampled = torch.linspace(0, len(shares) - 1, SAMPLES, dtype=torch.float64, device=x.device).long()
            shares, weights = shares[sampled], weights[sampled]
        levels = best_levels(shares, weights, 2**bits)
        largest = levels.abs().max().clamp(min=LEAST)
        integers, scale = (levels / largest * MIDDLE).round(), scale * largest / MIDDLE
        for _ in range(STEPS):
            y = integers[nearest((x / scale).contiguous(), integers)]
            weighted = y * weight
            fitted = (x * weighted).sum(1, keepdim=True) / (y * weighted).sum(1, keepdim=True)
            scale = torch.where(fitted > LEAST * scale, fitted, scale)  # not where all values are zero
        return cls({"levels": integers + MIDDLE, "scale": positive(scale)}, bits)

    def codes(self, x: Tensor) -> Tensor:
        """Return the index of the nearest level."""
        return nearest((x / self.scale).contiguous(), self.integers)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the level of each code."""
        return self.integers[codes.int()] * self.scale

    def positions(self, x: Tensor) -> Tensor:
        """Interpolate codes between their levels; beyond the outermost ones codes go on at the last distance.

        The middle of two levels is half a code from both, so rounding a position gives the code of the nearest level.
        """
        levels = self.integers
        x = (x / self.scale).contiguous()
        below = (torch.bucketize(x, levels, right=True) - 1).clamp(0, len(levels) - 2)
        width = (levels[below + 1] - levels[below]).clamp(min=1)
        return below + (x - levels[below]) / width

    def steps(self, codes: Tensor) -> Tensor:
        """Return half the distance of the levels on both sides of each code, or the distance of the only neighbour."""
        levels = self.integers
        widths = torch.nn.functional.pad(levels.diff(), (1, 1))
        widths[0], widths[-1] = widths[1], widths[-2]
        return ((widths[1:] + widths[:-1]) / 2)[codes.int()] * self.scale
