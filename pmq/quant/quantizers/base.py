"""What a quantizer is: a pure function from tensors to tensors with few distinct values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pmq.core.registry import Registry
from pmq.quant.ranges import EstimatesRanges, squared_error

Parameters = Mapping[str, Tensor]


class Quantizer(ABC):
    """A fitted quantizer. ``quantizer(x)`` has at most ``2 ** bits`` distinct values per scale.

    It is made of a few named parameters that broadcast against the tensors to come: of shape ``()`` for a whole tensor,
    ``(R, 1)`` for rows ``(R, K)``. :meth:`fit` finds them, :attr:`parameters` tells them, the constructor takes them.

    Subclasses that have one grid for a range write :meth:`variants`; others write :meth:`fit`.
    """

    name: ClassVar[str]
    #: parameters that are one for all rows
    shared: ClassVar[frozenset[str]] = frozenset()
    #: parameters that grow with the values
    lengths: ClassVar[tuple[str, ...]] = ("scale",)
    bits: int
    #: ``(scale, offset)`` where every level is ``(i + offset) * scale`` for an int8 ``i``, which :meth:`int8` gives
    int8_grid: tuple[float, int] | None = None

    @abstractmethod
    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        """Take fitted parameters."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Tensor]:
        """What the constructor takes."""

    @property
    def numbers(self) -> dict[str, list[float]]:
        """Its parameters as an allocation's file has them."""
        return {key: value.reshape(-1).tolist() for key, value in self.parameters.items()}

    @property
    @abstractmethod
    def ends(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest level."""

    def scaled(self, factor: Tensor | float) -> Quantizer:
        """The quantizer of values ``factor`` times as large."""
        grown = {k: v * factor if k in self.lengths else v for k, v in self.parameters.items()}
        return type(self)(grown, self.bits)

    @classmethod
    def variants(cls, bits: int, symmetric: bool) -> Sequence[Callable[[Tensor, Tensor], Quantizer]]:
        """Ways to make a quantizer of a range ``low, high``; :meth:`fit` takes the one with the least error."""
        raise NotImplementedError

    @classmethod
    def fit(cls, x: Tensor, bits: int, symmetric: bool, estimator: EstimatesRanges, weight: Tensor | None = None) -> Quantizer:
        """Fit to samples ``(R, K)``, a scale for each row, errors weighed by ``weight`` ``(R, K)``."""
        fitted = []
        for variant in cls.variants(bits, symmetric):
            quantizer = variant(*estimator.estimate(x, variant, symmetric, weight))
            fitted.append((float(squared_error(x, quantizer(x), weight).sum()), quantizer))
        return min(fitted, key=lambda pair: pair[0])[1]

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """Give the integer code of each value, from 0 to ``2 ** bits - 1``, same shape as ``x``."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Give the value of each code."""

    def int8(self, x: Tensor) -> Tensor:
        """Quantize to the int8 integers of :attr:`int8_grid`."""
        raise NotImplementedError(f"levels of {self.name!r} are no integers")

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize; subclasses do it in fewer passes over memory."""
        return self.decode(self.codes(x))


class Unfitted(Quantizer):
    """A quantizer without parameters: there is nothing to fit."""

    lengths = ()

    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        self.bits = bits

    @property
    def parameters(self) -> dict[str, Tensor]:
        """None."""
        return {}

    @classmethod
    def fit(cls, x: Tensor, bits: int, symmetric: bool, estimator: EstimatesRanges, weight: Tensor | None = None) -> Quantizer:
        """Check the samples."""
        estimator.check(x)
        return cls({}, bits)


def positive(scale: Tensor) -> Tensor:
    """Replace the scale of constant values, which any scale represents, by one."""
    return torch.where(scale > torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))


def scalar(value: Tensor) -> float | Tensor:
    """Make a number of a 0-dim tensor: element-wise kernels are a third faster on numbers."""
    return float(value) if value.ndim == 0 else value


QUANTIZERS: Registry[type[Quantizer]] = Registry("quantizer")


def register(cls: type[Quantizer]) -> type[Quantizer]:
    """Make a quantizer known by its name."""
    QUANTIZERS.add(cls.name, cls)
    return cls
