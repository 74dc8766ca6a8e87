"""Base class of quantizers: pure functions from tensors to tensors with few distinct values."""

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
    """Fitted quantizer: ``quantizer(x)`` has at most ``2 ** bits`` distinct values per scale.

    It is built from a few named parameters that broadcast against the tensors to quantize: of shape ``()`` for an entire
    tensor, ``(R, 1)`` for rows ``(R, K)``. :meth:`fit` computes them, :attr:`parameters` returns them, and the constructor
    accepts them.

    Subclasses whose grid is determined by a range implement :meth:`variants`; others override :meth:`fit`.
    """

    name: ClassVar[str]
    #: names of parameters that all rows share
    shared: ClassVar[frozenset[str]] = frozenset()
    #: names of parameters that are proportional to the values
    lengths: ClassVar[tuple[str, ...]] = ("scale",)
    #: whether :meth:`shifted` moves the levels; a quantizer that must contain zero at one end has none to move
    movable: ClassVar[bool] = False
    bits: int
    #: ``(scale, offset)`` if every level is ``(i + offset) * scale`` for an int8 ``i``, which :meth:`int8` returns; else None
    int8_grid: tuple[float, int] | None = None

    @abstractmethod
    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        """Build a quantizer from fitted parameters."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters, as the constructor accepts them."""

    @property
    def numbers(self) -> dict[str, list[float]]:
        """Return the parameters as lists of numbers, as in the file of an allocation."""
        return {key: value.reshape(-1).tolist() for key, value in self.parameters.items()}

    @property
    @abstractmethod
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest level."""

    def scaled(self, factor: Tensor | float) -> Quantizer:
        """Return the quantizer of values that are ``factor`` times as large."""
        scaled = {k: v * factor if k in self.lengths else v for k, v in self.parameters.items()}
        return type(self)(scaled, self.bits)

    def shifted(self, share: Tensor) -> Quantizer:
        """Return the quantizer whose levels lie higher by a ``share`` of its range, as far as its parameters express that."""
        raise NotImplementedError(f"the levels of quantizer {self.name!r} cannot be moved")

    @classmethod
    def variants(cls, bits: int, symmetric: bool) -> Sequence[Callable[[Tensor, Tensor], Quantizer]]:
        """Return functions that build a quantizer from ``low`` and ``high``; :meth:`fit` selects the one with the least error."""
        raise NotImplementedError

    @classmethod
    def fit(cls, x: Tensor, bits: int, symmetric: bool, estimator: EstimatesRanges, weight: Tensor | None = None) -> Quantizer:
        """Fit a quantizer to samples ``(R, K)``, with a scale for each row and errors weighted by ``weight`` ``(R, K)``."""
        fitted = []
        for variant in cls.variants(bits, symmetric):
            quantizer = variant(*estimator.estimate(x, variant, symmetric, weight))
            fitted.append((float(squared_error(x, quantizer(x), weight).sum()), quantizer))
        return min(fitted, key=lambda pair: pair[0])[1]

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """Return the integer code of each value, from 0 to ``2 ** bits - 1``, in the shape of ``x``."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each code."""

    def positions(self, x: Tensor) -> Tensor:
        """Return the codes of values as real numbers, which lie between two codes where a value lies between their levels."""
        raise NotImplementedError(f"quantizer {self.name!r} is not for weights that are learned")

    def steps(self, codes: Tensor) -> Tensor:
        """Return the mean distance of each code's level to its neighbours."""
        raise NotImplementedError(f"quantizer {self.name!r} is not for weights that are learned")

    def int8(self, x: Tensor) -> Tensor:
        """Quantize to the int8 integers of :attr:`int8_grid`."""
        raise NotImplementedError(f"the levels of quantizer {self.name!r} are not int8 integers")

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize; subclasses override this to need fewer passes over memory."""
        return self.decode(self.codes(x))


class Unfitted(Quantizer):
    """Quantizer without parameters, which needs no fitting."""

    lengths = ()

    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        self.bits = bits

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Return an empty dictionary."""
        return {}

    @classmethod
    def fit(cls, x: Tensor, bits: int, symmetric: bool, estimator: EstimatesRanges, weight: Tensor | None = None) -> Quantizer:
        """Check that the samples are finite, and return the quantizer."""
        estimator.check(x)
        return cls({}, bits)


def positive(scale: Tensor) -> Tensor:
    """Replace scales that are zero or tiny by one; these are of constant values, which any scale represents."""
    return torch.where(scale > torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))


def scalar(value: Tensor) -> float | Tensor:
    """Convert a 0-dimensional tensor to a number, as element-wise kernels are a third faster with numbers."""
    return float(value) if value.ndim == 0 else value


QUANTIZERS: Registry[type[Quantizer]] = Registry("quantizer")


def register(cls: type[Quantizer]) -> type[Quantizer]:
    """Register a quantizer class by its name."""
    QUANTIZERS.add(cls.name, cls)
    return cls
