"""Uniform affine quantization: evenly spaced levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Parameters, Quantizer, positive, register, scalar


@register
class Affine(Quantizer):
    """Quantizer ``clamp(round(x / scale), low, high) * scale`` with ``2 ** bits`` integers from ``-zero_point`` upwards.

    Asymmetric quantizers widen the range to include zero, which is exactly a level. Symmetric ones use the integers
    ``-2**(b-1) .. 2**(b-1) - 1`` and a scale at which the ends of ``[-m, m]`` are the outer edges of the outermost levels, so
    that there are four levels even at two bits.

    >>> q = Affine.from_range(torch.tensor(-1.0), torch.tensor(2.0), bits=2, symmetric=False)
    >>> q(torch.tensor([-9.0, -0.4, 0.6, 1.2, 9.0]))
    tensor([-1., -0.,  1.,  1.,  2.])
    """

    name = "affine"
    movable = True

    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        self.scale, self.zero_point = parameters["scale"], parameters["zero_point"]
        self.bits = bits
        self.low = -self.zero_point
        self.high = self.low + (2**bits - 1)
        self.inverse = 1.0 / self.scale
        self._inverse, self._low, self._high, self._scale = (scalar(t) for t in (self.inverse, self.low, self.high, self.scale))
        if self.scale.ndim == 0 and bits <= 8:
            self.int8_grid = (float(self.scale), int(self.low) + 128 if bits == 8 else 0)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Return the scale and the zero point."""
        return {"scale": self.scale, "zero_point": self.zero_point}

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest level."""
        return self.low * self.scale, self.high * self.scale

    def shifted(self, share: Tensor) -> Affine:
        """Return the quantizer whose levels lie higher by a ``share`` of its range, rounded to whole steps; it keeps zero."""
        top = 2.0**self.bits - 1
        return Affine(
            {"scale": self.scale, "zero_point": (self.zero_point - share * top).round().clamp(0.0, top) + 0.0}, self.bits
        )

    @classmethod
    def from_range(cls, low: Tensor, high: Tensor, bits: int, symmetric: bool) -> Affine:
        """Build the quantizer of values between ``low`` and ``high``."""
        if symmetric:
            scale = positive(2 * torch.maximum(low.abs(), high.abs()) / (2**bits - 1))
            return cls({"scale": scale, "zero_point": torch.full_like(scale, 2.0 ** (bits - 1))}, bits)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = positive((high - low) / (2**bits - 1))
        return cls({"scale": scale, "zero_point": torch.round(-low / scale).clamp(0.0, 2.0**bits - 1) + 0.0}, bits)

    @classmethod
    def variants(cls, bits: int, symmetric: bool) -> Sequence[Callable[[Tensor, Tensor], Quantizer]]:
        """Return the only way to build the quantizer of a range."""
        return [lambda low, high: cls.from_range(low, high, bits, symmetric)]

    def codes(self, x: Tensor) -> Tensor:
        """Return the integers of ``__call__``, shifted to start at 0."""
        return (torch.clamp(torch.round(x * self.inverse), self.low, self.high) - self.low).to(torch.int32)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of codes: subtract the zero point and multiply by the scale."""
        return (codes + self.low) * self.scale

    def positions(self, x: Tensor) -> Tensor:
        """Return codes before they are rounded."""
        return x / self.scale + self.zero_point

    def steps(self, codes: Tensor) -> Tensor:
        """Return the scale."""
        return self.scale

    def int8(self, x: Tensor) -> Tensor:
        """Quantize to integers relative to the zero point, shifted into the int8 range at eight bits."""
        assert self.int8_grid is not None
        y = (x * self._inverse).round_().clamp_(float(self.low), float(self.high))
        return (y.sub_(self.int8_grid[1]) if self.int8_grid[1] else y).to(torch.int8)

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize in four passes over memory, three of them in place."""
        y = (x * self._inverse).round_()
        if isinstance(self._low, Tensor) or isinstance(self._high, Tensor):
            return torch.clamp(y, self.low, self.high).mul_(self._scale)
        return y.clamp_(self._low, self._high).mul_(self._scale)
