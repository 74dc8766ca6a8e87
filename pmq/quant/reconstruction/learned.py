"""Learnable quantization of weights and activations: the positions that are rounded and the size of the scale."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pmq.core.choice import Choice
from pmq.quant.quantizers import Quantizer
from pmq.quant.weights import QuantizedWeight, from_rows, to_rows

#: largest distance of a code from its initial position in steps, below the half step at which rounding gives another code
_REACH = 0.45


class LearnedWeight(nn.Module):
    """Weight with learnable positions between the levels, and a learnable gain of each scale.

    A position is rounded in every forward pass, with a straight-through gradient, and starts where the original weight is, within
    the code that it was given. Forward passes see the levels and nothing between them: what is learned together with the
    rounding, such as biases, would otherwise fit a model whose weights are hardly quantized.

    Args:
        weight: original weight ``(O, I, ...)``.
        quantized: the weight as it was rounded.
        choice: choice with which it was rounded.
    """

    def __init__(self, weight: Tensor, quantized: QuantizedWeight, choice: Choice) -> None:
        super().__init__()
        self._start, self._top = quantized, 2**choice.bits - 1
        codes = quantized.codes.float()
        position = quantized.quantizer.positions(to_rows(weight, choice))
        self.position = nn.Parameter(torch.minimum(torch.maximum(position, codes - _REACH), codes + _REACH))
        self.gain = nn.Parameter(torch.ones_like(quantized.quantizer.parameters["scale"]))

    def _codes(self) -> Tensor:
        return self.position.detach().round().clamp(0, self._top)

    def forward(self) -> Tensor:
        """Return the values ``(O, I, ...)`` of the rounded positions."""
        codes, quantizer = self._codes().int(), self._start.quantizer
        rows = quantizer.decode(codes) + quantizer.steps(codes) * (self.position - self.position.detach())
        return from_rows(rows * self.gain, self._start.shape)

    @torch.no_grad()
    def compute(self) -> QuantizedWeight:
        """Return the quantized weight with the learned codes and scales."""
        return QuantizedWeight(self._codes().to(torch.uint8), self._start.quantizer.scaled(self.gain.detach()), self._start.shape)


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
