"""Quantizers that are learned by gradient descent, with straight-through rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.choice import Choice
from pmq.quant.quantizers import Quantizer


class _StraightThrough(torch.autograd.Function):
    """Quantization whose gradient takes rounding for the identity between the lowest and the highest level.

    With ``y = e**gain * q(x / e**gain)`` the derivative by ``gain`` is ``y - x`` between the levels and ``y`` beyond them. That
    is LSQ's (1902.08153) for the logarithm of the step size, whichever levels ``q`` has. Levels that move by a distance take
    along the values beyond them, and no others (LSQ+, 2004.09576).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor | None, shift: Tensor | None, quantizer: Quantizer, balance: float) -> Tensor:
        y = quantizer(x)
        low, high = (end.to(x.device) for end in quantizer.ends)
        inside = (x >= low) & (x <= high)
        ctx.save_for_backward(torch.where(inside, y - x, y), inside, high - low)
        ctx.shapes = tuple(None if t is None else t.shape for t in (gain, shift))
        ctx.balance = balance
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        slope, inside, width = ctx.saved_tensors
        passed = gradient * inside
        by_gain = by_shift = None
        gain, shift = ctx.shapes
        if gain is not None:
            by_gain = (gradient * slope).sum_to_size(gain) * ctx.balance
        if shift is not None:
            by_shift = ((gradient - passed) * width).sum_to_size(shift) * ctx.balance
        return passed, by_gain, by_shift, None, None


class LearnedGrid(nn.Module):
    """Quantizer whose step size and offset are learned; its levels keep their ratios.

    Parameters of the module are the logarithm of a gain for each scale, and where the levels are free to move a shift, as a
    share of their range. Quantizers without parameters (``dynamic`` and floating-point formats) have neither; gradients pass
    through their rounding.

    Args:
        quantizer: fitted quantizer with parameters ``(R, 1)``.
        choice: its choice; symmetric grids keep their middle at zero.
        n_values: number of values that share a scale, in a weight or in an activation of one image. Gradients of the parameters
            are divided by ``sqrt(n_values * (2**(bits - 1) - 1))``, LSQ's balance between the updates of steps and weights.
        spread: function that returns a quantizer whose parameters broadcast against the values.
        shape: function that reshapes a parameter ``(R, 1)`` so that it broadcasts against the values.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        choice: Choice,
        n_values: int,
        spread: Callable[[Quantizer], Quantizer] = lambda quantizer: quantizer,
        shape: Callable[[Tensor], Tensor] = lambda parameter: parameter,
    ) -> None:
        super().__init__()
        self._start, self._spread, self._shape = quantizer, spread, shape
        self._balance = 1 / math.sqrt(n_values * max(2 ** (choice.bits - 1) - 1, 1))
        zero = torch.zeros_like(quantizer.ends[1]).reshape(-1, 1)
        self.gain = nn.Parameter(zero) if quantizer.lengths else None
        self.shift = nn.Parameter(zero.clone()) if quantizer.movable and not choice.symmetric else None

    def forward(self, x: Tensor) -> Tensor:
        """Quantize and dequantize exactly as :meth:`quantizer` does."""
        gain, shift = (None if p is None else self._shape(p) for p in (self.gain, self.shift))
        quantized: Tensor = _StraightThrough.apply(x, gain, shift, self._spread(self.quantizer()), self._balance)
        return quantized

    @torch.no_grad()
    def quantizer(self) -> Quantizer:
        """Return the quantizer with the learned parameters."""
        quantizer = self._start
        device = quantizer.ends[1].device
        if self.gain is not None:
            quantizer = quantizer.scaled(self.gain.detach().exp().to(device))
        return quantizer if self.shift is None else quantizer.shifted(self.shift.detach().to(device))
