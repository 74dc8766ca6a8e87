"""Weights: laid out in rows that share a scale, quantized, and packed into bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.quant.estimators import ESTIMATORS
from pmq.quant.quantizers import QUANTIZERS, Quantizer


def to_rows(weight: Tensor, choice: Choice) -> Tensor:
    """Lay ``(O, I, ...)`` out as ``(R, K)``, a row for each scale; a last short group is filled up with zeros."""
    if choice.granularity == "tensor":
        return weight.reshape(1, -1)
    flat = weight.reshape(weight.shape[0], -1)
    if choice.granularity == "channel":
        return flat
    assert choice.group_size is not None
    missing = -flat.shape[1] % choice.group_size
    return torch.nn.functional.pad(flat, (0, missing)).reshape(-1, choice.group_size)


def from_rows(rows: Tensor, shape: torch.Size) -> Tensor:
    """Undo :func:`to_rows`."""
    flat = torch.Size(shape).numel() // shape[0]
    if rows.numel() == torch.Size(shape).numel():
        return rows.reshape(shape)
    return rows.reshape(shape[0], -1)[:, :flat].reshape(shape)


def estimate_range(rows: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
    """Estimate the range of each row of ``(R, K)`` values for the quantizer of ``choice``: ``(R, 1)``, ``(R, 1)``."""

    def from_range(low: Tensor, high: Tensor) -> Quantizer:
        return QUANTIZERS[choice.quantizer].from_range(low, high, choice.bits, choice.symmetric)

    return ESTIMATORS[choice.estimator].estimate(rows, from_range, choice.symmetric)


def fit(rows: Tensor, choice: Choice) -> Quantizer:
    """Fit one quantizer to ``(R, K)``, a scale for each row."""
    low, high = estimate_range(rows, choice)
    return QUANTIZERS[choice.quantizer].from_range(low, high, choice.bits, choice.symmetric)


@torch.no_grad()
def fake_quantize_weight(weight: Tensor, choice: Choice) -> Tensor:
    """Quantize and dequantize a weight; FP32 gives the weight itself."""
    if choice.is_float:
        return weight
    rows = to_rows(weight, choice)
    return from_rows(fit(rows, choice)(rows), weight.shape)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack integer codes below ``2 ** bits`` densely into bytes, little end first; ``ceil(n * bits / 8)`` of them.

    >>> pack(torch.tensor([1, 2, 3, 0]), 2)
    tensor([57], dtype=torch.uint8)
    """
    shifts = torch.arange(bits)
    stream = ((codes.reshape(-1, 1).long() >> shifts) & 1).reshape(-1)
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).reshape(-1, 8)
    return (stream << torch.arange(8)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Undo :func:`pack`.

    >>> unpack(torch.tensor([57], dtype=torch.uint8), 2, 4)
    tensor([1, 2, 3, 0])
    """
    stream = ((packed.reshape(-1, 1).long() >> torch.arange(8)) & 1).reshape(-1)
    return (stream[: count * bits].reshape(count, bits) << torch.arange(bits)).sum(1)
