"""Quantization of weights: rows that share a scale, quantized weights, and packing of codes into bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.quant.estimators import ESTIMATORS
from pmq.quant.quantizers import QUANTIZERS, Affine, Palette, Quantizer
from pmq.quant.threads import threads_by_size


def to_rows(weight: Tensor, choice: Choice) -> Tensor:
    """Reshape ``(O, I, ...)`` to ``(R, K)``, a row for each scale; an incomplete last group is padded with zeros."""
    if choice.granularity == "tensor":
        return weight.reshape(1, -1)
    flat = weight.reshape(weight.shape[0], -1)
    if choice.granularity == "channel":
        return flat
    assert choice.group_size is not None
    missing = -flat.shape[1] % choice.group_size
    return torch.nn.functional.pad(flat, (0, missing)).reshape(-1, choice.group_size)


def rows_shape(shape: torch.Size, choice: Choice) -> torch.Size:
    """Return the shape that :func:`to_rows` gives to a weight of ``shape``."""
    return to_rows(torch.empty(shape, device="meta"), choice).shape


def from_rows(rows: Tensor, shape: torch.Size) -> Tensor:
    """Reshape the rows of :func:`to_rows` back to a weight of ``shape``, without the padding."""
    flat = torch.Size(shape).numel() // shape[0]
    if rows.numel() == torch.Size(shape).numel():
        return rows.reshape(shape)
    return rows.reshape(shape[0], -1)[:, :flat].reshape(shape)


def fit(rows: Tensor, choice: Choice, weight: Tensor | None = None) -> Quantizer:
    """Fit one quantizer to ``(R, K)``, with a scale for each row and errors weighted by ``weight`` ``(R, K)``."""
    estimator = ESTIMATORS[choice.estimator]
    with threads_by_size(rows.numel()):
        return QUANTIZERS[choice.quantizer].fit(rows, choice.bits, choice.symmetric, estimator, weight)


@dataclass(frozen=True)
class QuantizedWeight:
    """Weight as it is stored: integer codes in rows ``(R, K)``, and the quantizer with the grid of each row."""

    codes: Tensor
    quantizer: Quantizer
    shape: torch.Size

    def dequantize(self) -> Tensor:
        """Return the values ``(O, I, ...)``."""
        return from_rows(self.quantizer.decode(self.codes), self.shape)

    def integers(self) -> Tensor | None:
        """Return the integers ``(O, I, ...)`` that the scales multiply, int32; None unless zero is the middle of the grid."""
        quantizer = self.quantizer
        if isinstance(quantizer, Palette):
            integers = quantizer.integers.int()[self.codes.int()]
        elif isinstance(quantizer, Affine) and bool((quantizer.zero_point == 2 ** (quantizer.bits - 1)).all()):
            integers = self.codes.int() - 2 ** (quantizer.bits - 1)
        else:
            return None
        return from_rows(integers, self.shape)  # without the padding of the last group

    def scaled(self, factor: float) -> QuantizedWeight:
        """Return the weight multiplied by ``factor``, with the same codes, or with new codes if the quantizer has no scale."""
        if not self.quantizer.lengths:
            return QuantizedWeight(self.quantizer.codes(self.quantizer.decode(self.codes) * factor), self.quantizer, self.shape)
        return QuantizedWeight(self.codes, self.quantizer.scaled(factor), self.shape)


@torch.no_grad()
def quantize_weight(weight: Tensor, choice: Choice) -> QuantizedWeight:
    """Quantize a weight by rounding each value to the nearest level."""
    rows = to_rows(weight, choice)
    quantizer = fit(rows, choice)
    return QuantizedWeight(stored(quantizer.codes(rows), choice.bits), quantizer, weight.shape)


def stored(codes: Tensor, bits: int) -> Tensor:
    """Convert codes to the integer type in which they are stored: uint8 up to 8 bits, else int32."""
    return codes.to(torch.uint8 if bits <= 8 else torch.int32)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack integer codes below ``2 ** bits`` densely into ``ceil(n * bits / 8)`` bytes, least significant bits first.

    >>> pack(torch.tensor([1, 2, 3, 0]), 2)
    tensor([57], dtype=torch.uint8)
    """
    shifts = torch.arange(bits)
    stream = ((codes.reshape(-1, 1).long() >> shifts) & 1).reshape(-1)
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).reshape(-1, 8)
    return (stream << torch.arange(8)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Unpack ``count`` integer codes that :func:`pack` has packed.

    >>> unpack(torch.tensor([57], dtype=torch.uint8), 2, 4)
    tensor([1, 2, 3, 0])
    """
    stream = ((packed.reshape(-1, 1).long() >> torch.arange(8)) & 1).reshape(-1)
    return (stream[: count * bits].reshape(count, bits) << torch.arange(bits)).sum(1)
