"""Orthogonal rotations folded into weights, which spread outliers over all channels at no cost at run time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pmq.core.progress import message
from pmq.graph import CapturedModel
from pmq.graph.heads import attentions, each_value
from pmq.graph.nodes import path_of
from pmq.quant.transforms.base import Setting, register
from pmq.quant.transforms.statistics import channel_statistics
from pmq.quant.transforms.streams import residual_streams, turn_tensor
from pmq.quant.transforms.structure import add_to_bias, set_

#: largest number of reasons in a message
_MAX_REASONS = 3


@register("rotate_residual")
def rotate_residual(model: CapturedModel, setting: Setting) -> None:
    """Rotate residual streams by rotations that commute with the norms that read them, once the norms are folded.

    QuaRot (2404.00456) does this for RMSNorm, with which every rotation commutes. A rotation that preserves ``(1, ..., 1)``
    also preserves each token's mean and variance, and therefore commutes with LayerNorm. Streams that are read by norms
    whose affine is not folded are not rotated.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    streams, reasons = residual_streams(model)
    for stream in streams:
        if not all(norm.folded for norm in stream.norms):
            reasons.append(f"the affine of its norms, such as {path_of(stream.norms[0].node)}, is not folded")
            continue
        centers = any(norm.centers for norm in stream.norms)
        draw = rotation_about_ones if centers else orthogonal
        rotation = draw(stream.width, generator).to(stream.writers[0].layer.weight.device)
        for writer in stream.writers:
            writer.turn(rotation)
        for tensor, axis, index in stream.tensors:
            set_(tensor, turn_tensor(tensor.data, axis, index, rotation))
        for reader in stream.readers:
            reader.turn(rotation)
    _report("a residual stream is not rotated where", reasons)


@register("rotate_heads")
def rotate_heads(model: CapturedModel, setting: Setting) -> None:
    """Rotate q and k of each head together, which preserves their product, and v, which the layer after it reverses.

    The rotation is a Hadamard matrix if the head's width is a power of two, else random orthogonal. Queries and keys are
    rotated only if nothing is between the layers that compute them and their product: no norm and no rotary embedding.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    not_rotated: dict[str, list[str]] = {}
    for heads in attentions(model):
        known = heads.q or heads.v
        for part, missing in (
            ("queries and keys", heads.scores and not (heads.q and heads.k)),
            ("values", heads.mixes and not heads.v),
        ):
            if missing:
                not_rotated.setdefault(part, []).append(heads.name)
        if known is None:
            continue
        rotation = orthogonal(known.rows.shape[1], generator).to(known.layer.weight.device)
        if heads.q is not None and heads.k is not None and heads.q.rows.shape == heads.k.rows.shape:
            heads.q.turn(rotation)
            heads.k.turn(rotation)
        if heads.v is not None and heads.mixed is not None and heads.v.rows.shape == heads.mixed.columns.shape:
            width = heads.v.rows.shape[1]
            rotation = rotation if len(rotation) == width else orthogonal(width, generator).to(rotation)
            heads.v.turn(rotation)
            heads.mixed.turn(rotation)
    for part, names in not_rotated.items():
        _report(f"{part} are not rotated where another operator is between their layer and their product:", names)


def _report(prefix: str, reasons: Sequence[str]) -> None:
    """Print a message of one line with the first reasons, if there are any."""
    if reasons:
        suffix = f", and {len(reasons) - _MAX_REASONS} more" if len(reasons) > _MAX_REASONS else ""
        message(f"{prefix} {'; '.join(reasons[:_MAX_REASONS])}{suffix}")


@register("center_values")
def center_values(model: CapturedModel, setting: Setting) -> None:
    """Subtract from each channel of v its mean, which is added to the bias of the layer after it, as softmax rows sum to one.

    The centred v is smaller, so an error in the sum of a quantized softmax row has less effect.
    """
    values = [(v, mixed) for v, mixed in each_value(model) if v.layer.bias is not None and mixed.layer.bias is not None]
    statistics = channel_statistics(model, [v.layer for v, _ in values], setting, of_output=True)
    for (v, mixed), (mean, _) in zip(values, statistics, strict=True):
        rows, columns = v.rows.reshape(-1), mixed.columns.reshape(-1)
        assert v.layer.bias is not None
        shift = torch.zeros_like(mean)
        shift[rows] = mean[rows]
        set_(v.layer.bias, v.layer.bias.double() - shift)
        add_to_bias(mixed.layer, mixed.layer.weight.double().flatten(1)[:, columns] @ mean[rows])


def rotation_about_ones(n: int, generator: torch.Generator) -> Tensor:
    """Draw a random rotation ``(n, n)``, double, that preserves the vector of ones.

    >>> rotation = rotation_about_ones(6, torch.Generator().manual_seed(0))
    >>> bool(torch.allclose(rotation @ rotation.T, torch.eye(6).double()))
    True
    >>> bool(torch.allclose(rotation.sum(0), torch.ones(6).double()))
    True
    """
    columns = torch.randn(n, n, dtype=torch.float64, generator=generator)
    columns[:, 0] = 1.0
    basis = torch.linalg.qr(columns)[0]  # its first column is parallel to the vector of ones
    inner = torch.eye(n, dtype=torch.float64)
    inner[1:, 1:] = _random_orthogonal(n - 1, generator)
    return basis @ inner @ basis.T


def orthogonal(n: int, generator: torch.Generator) -> Tensor:
    """Draw a Hadamard matrix ``(n, n)`` with random signs if ``n`` is a power of two, else a random orthogonal one; double."""
    if n & (n - 1):
        return _random_orthogonal(n, generator)
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < n:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    signs = torch.randint(2, (n, 1), generator=generator).double() * 2 - 1
    return signs * matrix / math.sqrt(n)


def _random_orthogonal(n: int, generator: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))
    return q * r.diagonal().sign()
