"""Learnable quantization of weights and activations: the direction of rounding and the size of the scale."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pmq.core.choice import Choice
from pmq.quant.quantizers import Quantizer
from pmq.quant.weights import QuantizedWeight, from_rows, to_rows

#: ends of the rectified sigmoid before it is clamped to 0 and 1
_BELOW, _ABOVE = -0.1, 1.1
#: largest distance of a code from its initial position in steps, below the half step at which rounding gives another code
_REACH = 0.45


class LearnedWeight(nn.Module):
    """Weight with learnable rounding, which moves codes up or down by one, and a learnable gain of each scale.

    Rounding is AdaRound's (2004.10568): ``floor + h`` with a rectified sigmoid ``h`` that a penalty pushes to 0 or 1. It
    starts at the codes, and is the more undecided the farther they are from the original weight.

    Args:
        weight: original weight ``(O, I, ...)``.
        quantized: the weight as it was rounded.
        choice: choice with which it was rounded.
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
        """Return the rectified sigmoid ``h``."""
        return ((_ABOVE - _BELOW) * torch.sigmoid(self.up) + _BELOW).clamp(0, 1)

    def forward(self) -> Tensor:
        """Return the values ``(O, I, ...)``, which are between two levels where rounding is undecided."""
        grid = self._start.quantizer.parameters
        codes = (self._floor + self._rise()).clamp(max=self._top)
        return from_rows((codes - grid["zero_point"]) * (grid["scale"] * self.gain), self._start.shape)

    def penalty(self, sharpness: float) -> Tensor:
        """Return the mean indecision ``1 - |2 h - 1| ** sharpness`` of the rounding, from 0 to 1.

        With a large ``sharpness``, all values except those that are nearly decided have an indecision close to 1.
        """
        return (1 - (2 * self._rise() - 1).abs().pow(sharpness)).mean()

    @torch.no_grad()
    def compute(self) -> QuantizedWeight:
        """Return the quantized weight with decided rounding and the learned scales."""
        codes = (self._floor + (self._rise() > 0.5)).clamp(max=self._top).to(torch.uint8)
        return QuantizedWeight(codes, self._start.quantizer.scaled(self.gain.detach()), self._start.shape)


class LearnedActivation(nn.Module):
    """Quantizer with a learned gain, ``gain * q(x / gain)``, and straight-through gradients (LSQ, 1902.08153).

    Args:
        quantizer: fitted quantizer with parameters ``(R, 1)``.
        spread: function that returns a quantizer whose parameters broadcast against the activation.
        shape: function that reshapes ``(R, 1)`` so that it broadcasts against the activation.
    """

    def __init__(self, quantizer: Quantizer, spread: Callable[[Quantizer], Quantizer], shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._start, self._broadcast, self._shape = quantizer, spread(quantizer), shape
        end = quantizer.ends[1]
        self.gain = nn.Parameter(torch.ones_like(end, device=self._broadcast.ends[1].device))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize and dequantize."""
        gain = self._shape(self.gain)
        x = x.float() / gain
        low, high = self._broadcast.ends
        inside = torch.clamp(x, low, high)
        return (inside + (self._broadcast(x.detach()) - inside.detach())) * gain

    def compute(self) -> Quantizer:
        """Return the quantizer with the learned scale."""
        return self._start.scaled(self.gain.detach().to(self._start.ends[1].device))
