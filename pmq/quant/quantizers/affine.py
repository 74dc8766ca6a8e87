"""Uniform affine quantization: evenly spaced levels."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Quantizer, register


@register
class Affine(Quantizer):
    """``clamp(round(x / scale), low, high) * scale`` with ``2 ** bits`` integers from ``low`` to ``high``.

    Asymmetric: the range is widened to hold zero, which is exactly a level (zero point ``-low``). Symmetric: the
    integers are ``-2**(b-1) .. 2**(b-1) - 1`` and the scale makes the ends of ``[-m, m]`` the outer edges of the outer
    levels, so that two bits still have four levels.

    >>> q = Affine.from_range(torch.tensor(-1.0), torch.tensor(2.0), bits=2, symmetric=False)
    >>> q(torch.tensor([-9.0, -0.4, 0.6, 1.2, 9.0]))
    tensor([-1., -0.,  1.,  1.,  2.])
    """

    name = "affine"

    def __init__(self, scale: Tensor, low: Tensor, high: Tensor) -> None:
        self.scale, self.low, self.high = scale, low, high
        self.inverse = 1.0 / scale
        # Scalars make the element-wise kernels a third faster than 0-dim tensors do.
        self._scalars = (float(self.inverse), float(low), float(high), float(scale)) if scale.ndim == 0 else None

    @classmethod
    def from_range(cls, low: Tensor, high: Tensor, bits: int, symmetric: bool) -> Affine:
        """Fit scale and zero point."""
        if symmetric:
            bound = torch.maximum(low.abs(), high.abs())
            scale = _positive(2 * bound / (2**bits - 1))
            lowest = torch.full_like(scale, -(2.0 ** (bits - 1)))
            return cls(scale, lowest, lowest + (2**bits - 1))
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = _positive((high - low) / (2**bits - 1))
        lowest = torch.round(low / scale).clamp(-(2.0**bits - 1), 0.0)
        return cls(scale, lowest, lowest + (2**bits - 1))

    def codes(self, x: Tensor) -> Tensor:
        """Integers from 0, exactly those that ``__call__`` uses."""
        return (torch.clamp(torch.round(x * self.inverse), self.low, self.high) - self.low).to(torch.int32)

    def decode(self, codes: Tensor) -> Tensor:
        """Subtract the zero point, multiply by the scale."""
        return (codes + self.low) * self.scale

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize in four passes, three of them in place."""
        if self._scalars is not None:
            inverse, low, high, scale = self._scalars
            return (x * inverse).round_().clamp_(low, high).mul_(scale)
        return (x * self.inverse).round_().clamp_(self.low, self.high).mul_(self.scale)


def _positive(scale: Tensor) -> Tensor:
    """Replace the scale of constant-zero values, which any scale represents, by one."""
    return torch.where(scale > torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))
