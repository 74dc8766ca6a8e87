"""What can be learned of a weight and of an activation: which way to round, and how large the scale is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pmq.core.choice import Choice
from pmq.quant.quantizers import Quantizer
from pmq.quant.weights import QuantizedWeight, from_rows, to_rows

#: ends of the rectified sigmoid before it is cut to 0 and 1
_BELOW, _ABOVE = -0.1, 1.1
#: how far a code may lie from the value it starts at, in steps; more would be another code
_REACH = 0.45


class LearnedWeight(nn.Module):
    """A weight whose codes may still go one up or down, and whose scales may still grow or shrink.

    Rounding is AdaRound's (2004.10568): ``floor + h`` with a rectified sigmoid ``h`` that a penalty pushes to 0 or 1. It
    starts where the codes are, as undecided as they are far from the original weight.

    Args:
        weight: the original ``(O, I, ...)``.
        quantized: what it was rounded to.
        choice: how.
    """

    def __init__(self, weight: Tensor, quantized: QuantizedWeight, choice: Choice) -> None:
        super().__init__()
        self._start, self._top = quantized, 2**choice.bits - 1
        grid, codes = quantized.quantizer.parameters, quantized.codes.float()
        position = to_rows(weight, choice) / grid["scale"] + grid["zero_point"]
        position = torch.minimum(torch.maximum(position, codes - _REACH), codes + _REACH).clamp(0, self._top)
        self._floor = position.floor()
        self.up = nn.Parameter(torch.logit((position - self._floor - _BELOW) / (_ABOVE - _BELOW), eps=1e-4))
        self.gain = nn.Parameter(torch.ones_like(grid["scale"]))

    def _rise(self) -> Tensor:
        return ((_ABOVE - _BELOW) * torch.sigmoid(self.up) + _BELOW).clamp(0, 1)

    def forward(self) -> Tensor:
        """Values ``(O, I, ...)``, between codes where it is undecided."""
        grid = self._start.quantizer.parameters
        codes = (self._floor + self._rise()).clamp(max=self._top)
        return from_rows((codes - grid["zero_point"]) * (grid["scale"] * self.gain), self._start.shape)

    def penalty(self, sharpness: float) -> Tensor:
        """How much is undecided, from 0 to 1: the sharper, the more only for what is in the very middle."""
        return (1 - (2 * self._rise() - 1).abs().pow(sharpness)).mean()

    @torch.no_grad()
    def compute(self) -> QuantizedWeight:
        """Decide."""
        codes = (self._floor + (self._rise() > 0.5)).clamp(max=self._top).to(torch.uint8)
        return QuantizedWeight(codes, self._start.quantizer.scaled(self.gain.detach()), self._start.shape)


class LearnedActivation(nn.Module):
    """A quantizer with a learned gain, ``gain * q(x / gain)``; gradients go straight through rounding (LSQ, 1902.08153).

    Args:
        quantizer: as fitted, with parameters ``(R, 1)``.
        spread: lays a quantizer out for the activation.
        shape: lays ``(R, 1)`` out for the activation.
    """

    def __init__(self, quantizer: Quantizer, spread: Callable[[Quantizer], Quantizer], shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._start, self._laid_out, self._shape = quantizer, spread(quantizer), shape
        end = quantizer.ends[1]
        self.gain = nn.Parameter(torch.ones_like(end, device=self._laid_out.ends[1].device))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize."""
        gain = self._shape(self.gain)
        x = x.float() / gain
        low, high = self._laid_out.ends
        inside = torch.clamp(x, low, high)
        return (inside + (self._laid_out(x.detach()) - inside.detach())) * gain

    def compute(self) -> Quantizer:
        """The quantizer with its scale as learned."""
        return self._start.scaled(self.gain.detach().to(self._start.ends[1].device))
