"""Quantization with levels that follow a power law, dense near one end of the range and sparse at the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Parameters, Quantizer, positive, register, scalar
from pmq.quant.quantizers.roots import ROOTS, root_, to_power_

#: positive lower limit of the scaled values, whose root still rounds to zero
_ZERO = 1e-6


@register
class Power(Quantizer):
    """Quantizer to levels ``low + (high - low) * (k / (2**bits - 1))**root`` for ``k = 0 .. 2**bits - 1``.

    ``root`` is 1 (evenly spaced), 2 or 4, whichever has the least error. Softmax and GELU outputs have most of their
    values at the lower end and a long tail above: from five bits up, this is better than logarithmic levels, which are denser
    than necessary at the lower end. Zero is not exactly a level.

    >>> q = Power.from_range(torch.tensor(0.0), torch.tensor(9.0), bits=2, root=2)
    >>> q(torch.tensor([-1.0, 0.2, 0.3, 3.0, 7.0]))
    tensor([0., 0., 1., 4., 9.])
    """

    name = "power"
    shared = frozenset({"root"})
    lengths = ("low", "high")
    movable = True

    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        self.low, self.high, self.bits = parameters["low"], parameters["high"], bits
        self.root = int(parameters["root"])
        steps = 2**bits - 1
        width = positive(self.high - self.low)
        # The width is folded into both maps, so that each needs only one multiplication in addition to the root.
        self._steps = steps
        self._low, self._inverse = scalar(self.low), scalar(float(steps) ** self.root / width)
        self._width = scalar(width / float(steps) ** self.root)
        self._top = float(steps) ** self.root

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Return both ends and the root."""
        return {"low": self.low, "high": self.high, "root": torch.tensor(float(self.root))}

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the ends of the range."""
        return self.low, self.high

    def shifted(self, share: Tensor) -> Power:
        """Return the quantizer whose levels lie higher by a ``share`` of its range."""
        distance = share * (self.high - self.low)
        return Power({**self.parameters, "low": self.low + distance, "high": self.high + distance}, self.bits)

    @classmethod
    def from_range(cls, low: Tensor, high: Tensor, bits: int, root: int) -> Power:
        """Build the quantizer whose lowest level is ``low`` and whose highest level is ``high``."""
        return cls({"low": low, "high": high, "root": torch.tensor(float(root))}, bits)

    @classmethod
    def variants(cls, bits: int, symmetric: bool) -> Sequence[Callable[[Tensor, Tensor], Quantizer]]:
        """Return a function for each root."""
        return [partial(cls.from_range, bits=bits, root=root) for root in ROOTS]

    def codes(self, x: Tensor) -> Tensor:
        """Return ``k`` of the nearest level."""
        return self._steps_of(x).to(torch.int32)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the level of each code ``k``."""
        return to_power_(codes.to(self.low.dtype), self.root).mul_(self._width).add_(self._low)

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize."""
        return to_power_(self._steps_of(x), self.root).mul_(self._width).add_(self._low)

    def _steps_of(self, x: Tensor) -> Tensor:
        # clamped above zero, as the square root of zero takes ten times as long as that of any other number
        return root_((x - self._low).mul_(self._inverse).clamp_(_ZERO, self._top), self.root).round_()
