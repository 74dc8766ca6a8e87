"""Logarithmic quantization for softmax outputs: the levels are zero and powers of a root of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Parameters, Quantizer, register, scalar
from pmq.quant.quantizers.roots import ROOTS, root_, to_power_

#: mantissa bits of sqrt(2), from which the logarithm of a float rounds up
_SQRT2 = 0x3504F3
#: integer that, added to a float's bits, carries into the exponent if the mantissa is at least that of sqrt(2)
_CARRY = 0x800000 - _SQRT2
#: mask of a float's exponent bits
_EXPONENT = 0x7F800000
#: largest number of halvings, so that half of the smallest level is still a normal float
_MOST_HALVINGS = 124


@register
class Log(Quantizer):
    """Quantizer to levels ``0`` and ``scale * 2**(-k / root)`` for ``k = 0 .. 2**bits - 2``, rounded in the logarithm.

    ``root`` is 1 (FQ-ViT's log2, 2111.13824), 2 (RepQ-ViT's log-sqrt2, 2212.08254) or 4, whichever has the least error:
    the more levels there are, the closer they should be. Zero is one of the ``2**bits`` levels: without it, a row of tiny
    attention weights would be rounded up to the smallest power and add up to more than the large weights of the row. Values
    must not be negative.

    >>> q = Log.from_range(torch.tensor(0.0), torch.tensor(1.0), bits=2, root=1)
    >>> q(torch.tensor([0.9, 0.6, 0.3, 0.2, 0.02]))
    tensor([1.0000, 0.5000, 0.2500, 0.2500, 0.0000])
    """

    name = "log"
    shared = frozenset({"root"})

    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        self.scale, self.bits = parameters["scale"], bits
        self.root = int(parameters["root"])
        self._inverse, self._scale = scalar(1.0 / self.scale), scalar(self.scale)
        last = min(2**bits - 2, _MOST_HALVINGS)
        # The largest float that would round to half of the smallest level: this and all smaller values become zero, but only at
        # the end, as the square root of zero takes ten times as long as that of any other number.
        self._floor = float(((1 + (_SQRT2 - 1) / 2**23) * 2.0 ** (-last - 1)) ** (1 / self.root))
        self._cut = 2.0 ** ((-last - 0.5) / self.root)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Return the scale and the root."""
        return {"scale": self.scale, "root": torch.tensor(float(self.root))}

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return zero and the scale."""
        return torch.zeros_like(self.scale), self.scale

    @classmethod
    def from_range(cls, low: Tensor, high: Tensor, bits: int, root: int) -> Log:
        """Build the quantizer whose largest level is ``high``."""
        scale = torch.where(high > 0, high, torch.ones_like(high))
        return cls({"scale": scale, "root": torch.tensor(float(root))}, bits)

    @classmethod
    def variants(cls, bits: int, symmetric: bool) -> Sequence[Callable[[Tensor, Tensor], Quantizer]]:
        """Return a function for each root."""
        return [partial(cls.from_range, bits=bits, root=root) for root in ROOTS]

    def codes(self, x: Tensor) -> Tensor:
        """Return 0 for zero and ``1 + k`` for ``scale * 2**(-k / root)``."""
        level = self._levels(x)
        return torch.where(level > 0, 1 - torch.log2(level) * self.root, 0.0).round_().to(torch.int32)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the level of each code."""
        return torch.where(codes > 0, root_(torch.exp2(1.0 - codes), self.root), 0.0) * self.scale

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize by rounding the exponent field of the float, without computing a logarithm."""
        return self._levels(x).mul_(self._scale)

    def _levels(self, x: Tensor) -> Tensor:
        """Return the level among 0 and ``2**(-k / root)`` that is nearest to ``x / scale`` in the logarithm."""
        y = to_power_((x * self._inverse).clamp_(self._floor, 1.0), self.root)
        y.view(torch.int32).add_(_CARRY).bitwise_and_(_EXPONENT)
        return torch.threshold_(root_(y, self.root), self._cut, 0.0)
