"""What a quantizer is: a pure function from tensors to tensors with few distinct values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from pmq.core.registry import Registry


class Quantizer(ABC):
    """A fitted quantizer. ``quantizer(x)`` has at most ``2 ** bits`` distinct values per scale.

    Subclasses are made by :meth:`from_range`; the range broadcasts against the tensors to come, so that one object
    serves a whole tensor (range of shape ``()``) or each row of ``(R, K)`` (range ``(R, 1)``).
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def from_range(cls, low: Tensor, high: Tensor, bits: int, symmetric: bool) -> Quantizer:
        """Fit to values between ``low`` and ``high``. A range of zero width must not divide by zero."""

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """Give the integer code of each value, from 0 to ``2 ** bits - 1``, same shape as ``x``."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Give the value of each code."""

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize; subclasses do it in fewer passes over memory."""
        return self.decode(self.codes(x))


QUANTIZERS: Registry[type[Quantizer]] = Registry("quantizer")


def register(cls: type[Quantizer]) -> type[Quantizer]:
    """Make a quantizer known by its name."""
    QUANTIZERS.add(cls.name, cls)
    return cls
