"""Products of integer codes: an int8 matrix product gives the result of fake quantization, only faster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pmq.quant.quantizers import Quantizer, Relative
from pmq.quant.weights import QuantizedWeight


@dataclass(frozen=True)
class IntegerWeight:
    """Weight as int8 integers ``(I, O)``, with scales ``(O,)`` or ``(1,)`` and each output's sum of integers ``(O,)``."""

    integers: Tensor
    scale: Tensor
    sums: Tensor

    @classmethod
    def of(cls, weight: QuantizedWeight) -> IntegerWeight | None:
        """Convert a symmetric weight ``(O, I)`` with a scale for each output or one for all; return None for other weights."""
        integers = weight.integers()
        if integers is None:
            return None
        scale = weight.quantizer.parameters["scale"].reshape(-1)
        convertible = len(weight.shape) == 2 and len(scale) in (1, weight.shape[0])
        # cuBLAS requires both dimensions of the weight to be multiples of eight.
        aligned = scale.device.type == "cpu" or all(side % 8 == 0 for side in weight.shape)
        if not (convertible and aligned and computes_exactly(scale.device.type, *weight.shape)):
            return None
        return cls(integers.to(torch.int8).T, scale, integers.sum(1))


class IntegerLinear:
    """Product ``linear(quantizer(x), weight, bias)`` with both operands as int8 and sums in int32.

    With ``x = (i + offset) * s`` and ``w = j * t`` (a scale ``t`` for each output) the product is
    ``s * t * (i @ j.T + offset * sum(j))``: a matrix product of integers, which is exact, and one pass over its result.

    Args:
        weight: weight as integers.
        quantizer: quantizer of the input, which must have an ``int8_grid``.
    """

    def __init__(self, weight: IntegerWeight, quantizer: Quantizer) -> None:
        assert quantizer.int8_grid is not None
        scale, offset = quantizer.int8_grid
        self._quantizer, self._weight = quantizer, weight.integers
        self._scale = scale * weight.scale
        self._shift = self._scale * offset * weight.sums

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer's output: ``(..., I)`` -> ``(..., O)``."""
        integers = self._quantizer.int8(x)
        product = torch._int_mm(integers.reshape(-1, x.shape[-1]), self._weight)
        shift = self._shift if bias is None else self._shift + bias
        return torch.addcmul(shift, product, self._scale).reshape(*x.shape[:-1], -1)


class IntegerLinearByToken:
    """The same product for an input whose tokens have steps of their own: ``x = i * s`` with a step ``s`` for each token.

    Args:
        weight: weight as integers.
        quantizer: quantizer of the input.
    """

    def __init__(self, weight: IntegerWeight, quantizer: Relative) -> None:
        self._quantizer, self._weight = quantizer, weight

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer's output: ``(..., I)`` -> ``(..., O)``."""
        integers, step = self._quantizer.by_token(x)
        product = torch._int_mm(integers.reshape(-1, x.shape[-1]), self._weight.integers)
        result = (product * self._weight.scale).mul_(step.reshape(-1, 1))
        return (result if bias is None else result.add_(bias)).reshape(*x.shape[:-1], -1)


def integer_product(weight: IntegerWeight, quantizer: Quantizer) -> IntegerLinear | IntegerLinearByToken:
    """Return the product of a weight and an input whose quantizer :func:`has_integers`."""
    return IntegerLinearByToken(weight, quantizer) if isinstance(quantizer, Relative) else IntegerLinear(weight, quantizer)


def has_integers(quantizer: Quantizer) -> bool:
    """Return whether the levels of an input are int8 integers, on one grid or on one for each token."""
    return isinstance(quantizer, Relative) or quantizer.int8_grid is not None


@cache
def computes_exactly(device: str, outputs: int = 16, inputs: int = 64) -> bool:
    """Return whether a device type multiplies int8 by a matrix ``(outputs, inputs)`` exactly.

    Processors without VNNI may saturate sums at 16 bits, and torch 2.13 returns uninitialized memory for a single input.
    """
    for a, b in ((127, 127), (-128, 127), (-128, -128)):
        left = torch.full((32, inputs), a, dtype=torch.int8, device=device)
        right = torch.full((outputs, inputs), b, dtype=torch.int8, device=device)
        try:
            product = torch._int_mm(left, right.T)
        except (RuntimeError, NotImplementedError):
            return False
        if not bool((product == inputs * a * b).all()):
            return False
    return True
