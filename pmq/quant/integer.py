"""Products of integer codes: what an int8 matrix product computes is what fake quantization computes, only faster."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from pmq.quant.quantizers import Quantizer
from pmq.quant.weights import QuantizedWeight


class IntegerLinear:
    """``linear(quantizer(x), weight, bias)`` with both operands as int8 and sums in int32.

    With ``x = (i + offset) * s`` and ``w = j * t`` (a scale ``t`` for each output) the product is
    ``s * t * (i @ j.T + offset * sum(j))``: a matrix product of integers, which is exact, and one pass over its result.

    Args:
        weight: ``(O, I)``, symmetric with one scale for each output, or one for all.
        quantizer: of the input, with an ``int8_grid``.
    """

    def __init__(self, weight: QuantizedWeight, quantizer: Quantizer) -> None:
        assert quantizer.int8_grid is not None
        scale, offset = quantizer.int8_grid
        integers = weight.codes.reshape(weight.shape).int() - 2 ** (weight.quantizer.bits - 1)
        self._quantizer = quantizer
        self._weight = integers.to(torch.int8).T
        self._scale = scale * weight.quantizer.parameters["scale"].reshape(-1)
        self._shift = self._scale * offset * integers.sum(1)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer: ``(..., I)`` -> ``(..., O)``."""
        integers = self._quantizer.int8(x)
        product = torch._int_mm(integers.reshape(-1, x.shape[-1]), self._weight)
        shift = self._shift if bias is None else self._shift + bias
        return torch.addcmul(shift, product, self._scale).unflatten(0, x.shape[:-1])


def computes_exactly(device: torch.device) -> bool:
    """Whether the device multiplies int8 without loss: processors without VNNI may saturate sums at 16 bits."""
    return _computes_exactly(device.type)


@cache
def _computes_exactly(device: str) -> bool:
    rows, inner, columns = 32, 64, 16
    for a, b in ((127, 127), (-128, 127), (-128, -128)):
        left = torch.full((rows, inner), a, dtype=torch.int8, device=device)
        right = torch.full((columns, inner), b, dtype=torch.int8, device=device)
        try:
            product = torch._int_mm(left, right.T)
        except (RuntimeError, NotImplementedError):
            return False
        if not bool((product == inner * a * b).all()):
            return False
    return True


def suits(weight: QuantizedWeight, quantizer: Quantizer, device: torch.device) -> bool:
    """Whether a product of the two can be computed as :class:`IntegerLinear`."""
    scales = weight.quantizer.parameters["scale"].numel()
    middle = bool((weight.quantizer.parameters["zero_point"] == 2 ** (weight.quantizer.bits - 1)).all())
    ours = len(weight.shape) == 2 and middle and scales in (1, weight.shape[0]) and quantizer.int8_grid is not None
    # cuBLAS wants both sides of the weight to be multiples of eight.
    aligned = device.type == "cpu" or (weight.shape[0] % 8 == 0 and weight.shape[1] % 8 == 0)
    return ours and aligned and computes_exactly(device)
