"""Products of integer codes: what an int8 matrix product computes is what fake quantization computes, only faster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pmq.quant.quantizers import Quantizer
from pmq.quant.weights import QuantizedWeight, from_rows


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as integers: int8 ``(I, O)``, scales ``(O,)`` or ``(1,)``, and the integers' sums for each output ``(O,)``."""

    integers: Tensor
    scale: Tensor
    sums: Tensor

    @classmethod
    def of(cls, weight: QuantizedWeight) -> IntegerWeight | None:
        """Convert a symmetric ``(O, I)`` weight with one scale for each output or for all; there is none of others."""
        if "scale" not in weight.quantizer.parameters:
            return None
        grid, middle = weight.quantizer.parameters, 2 ** (weight.quantizer.bits - 1)
        scale = grid["scale"].reshape(-1)
        ours = len(weight.shape) == 2 and len(scale) in (1, weight.shape[0]) and bool((grid["zero_point"] == middle).all())
        # cuBLAS wants both sides of the weight to be multiples of eight.
        aligned = scale.device.type == "cpu" or all(side % 8 == 0 for side in weight.shape)
        if not (ours and aligned and computes_exactly(scale.device.type, *weight.shape)):
            return None
        integers = from_rows(weight.codes, weight.shape).int() - middle  # a last short group is filled up
        return cls(integers.to(torch.int8).T, scale, integers.sum(1))


class IntegerLinear:
    """``linear(quantizer(x), weight, bias)`` with both operands as int8 and sums in int32.

    With ``x = (i + offset) * s`` and ``w = j * t`` (a scale ``t`` for each output) the product is
    ``s * t * (i @ j.T + offset * sum(j))``: a matrix product of integers, which is exact, and one pass over its result.

    Args:
        weight: as integers.
        quantizer: of the input, with an ``int8_grid``.
    """

    def __init__(self, weight: IntegerWeight, quantizer: Quantizer) -> None:
        assert quantizer.int8_grid is not None
        scale, offset = quantizer.int8_grid
        self._quantizer, self._weight = quantizer, weight.integers
        self._scale = scale * weight.scale
        self._shift = self._scale * offset * weight.sums

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer: ``(..., I)`` -> ``(..., O)``."""
        integers = self._quantizer.int8(x)
        product = torch._int_mm(integers.reshape(-1, x.shape[-1]), self._weight)
        shift = self._shift if bias is None else self._shift + bias
        return torch.addcmul(shift, product, self._scale).reshape(*x.shape[:-1], -1)


@cache
def computes_exactly(device: str, outputs: int = 16, inputs: int = 64) -> bool:
    """Whether a type of device multiplies int8 by a matrix ``(outputs, inputs)`` without loss.

    Processors without VNNI may saturate sums at 16 bits, and torch 2.13 gives memory that nobody wrote for a single input.
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
