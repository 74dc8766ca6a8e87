"""Logarithmic quantization for softmax outputs: levels are zero and powers of two."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Quantizer, register

#: mantissa of sqrt(2): where the logarithm of a float rounds up
_SQRT2 = 0x3504F3
#: added to a float's bits, carries into the exponent from sqrt(2) on
_CARRY = 0x800000 - _SQRT2
_EXPONENT = 0x7F800000
_SMALLEST_NORMAL = 126


@register
class Log2(Quantizer):
    """Levels ``0`` and ``scale * 2**-k`` for ``k = 0 .. 2**bits - 2``, rounded in the logarithm (FQ-ViT, 2111.13824).

    Zero is a level of its own, taken from the ``2**bits``: without it a row of tiny attention weights would be rounded
    up to the smallest power and add up to more than the row's large ones. Values must not be negative.

    >>> q = Log2.from_range(torch.tensor(0.0), torch.tensor(1.0), bits=2, symmetric=False)
    >>> q(torch.tensor([0.9, 0.6, 0.3, 0.2, 0.02]))
    tensor([1.0000, 0.5000, 0.2500, 0.2500, 0.0000])
    """

    name = "log2"

    def __init__(self, scale: Tensor, bits: int) -> None:
        self.scale, self.bits = scale, bits
        self.inverse = 1.0 / scale
        self._scalars = (float(self.inverse), float(scale)) if scale.ndim == 0 else (self.inverse, scale)
        last = min(2**bits - 2, _SMALLEST_NORMAL)
        # The largest float that would round to half the smallest level: it and what is below it become zero.
        self._cut = (1 + (_SQRT2 - 1) / 2**23) * 2.0 ** (-last - 1)

    @classmethod
    def from_range(cls, low: Tensor, high: Tensor, bits: int, symmetric: bool) -> Log2:
        """Fit the largest level to ``high``."""
        return cls(torch.where(high > 0, high, torch.ones_like(high)), bits)

    def codes(self, x: Tensor) -> Tensor:
        """Give 0 for zero and ``1 + k`` for ``scale * 2**-k``."""
        power = self._powers(x)
        return torch.where(power > 0, 1 - torch.log2(power), 0.0).to(torch.int32)

    def decode(self, codes: Tensor) -> Tensor:
        """Look the level up."""
        return torch.where(codes > 0, torch.exp2(1.0 - codes), 0.0) * self.scale

    def __call__(self, x: Tensor) -> Tensor:
        """Round the exponent field of the float itself: no logarithm is computed."""
        return self._powers(x).mul_(self._scalars[1])

    def _powers(self, x: Tensor) -> Tensor:
        """Nearest, in the logarithm, of 0 and ``2**-k`` to ``x / scale``."""
        y = torch.threshold_((x * self._scalars[0]).clamp_(max=1.0), self._cut, 0.0)
        y.view(torch.int32).add_(_CARRY).bitwise_and_(_EXPONENT)
        return y
