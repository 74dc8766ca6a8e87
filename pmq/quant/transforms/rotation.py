"""Orthogonal rotations folded into weights: they spread outliers over all channels and cost nothing at run time."""

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

#: how many reasons are told in a line
_NAMED = 3


@register("rotate_residual")
def rotate_residual(model: CapturedModel, setting: Setting) -> None:
    """Rotate residual streams, so that the norms that read them, once folded, commute with it.

    QuaRot (2404.00456) does this for RMSNorm, with which every rotation commutes; one that keeps ``(1, ..., 1)`` keeps each
    token's mean and variance as well, and so LayerNorm. Streams read through norms that still have an affine of their own
    are left alone.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    streams, reasons = residual_streams(model)
    for stream in streams:
        if not all(norm.folded for norm in stream.norms):
            reasons.append(f"norms that read what {path_of(stream.norms[0].node)} reads have an affine of their own")
            continue
        centers = any(norm.centers for norm in stream.norms)
        turn = (rotation_about_ones if centers else orthogonal)(stream.width, generator).to(stream.writers[0].layer.weight.device)
        for writer in stream.writers:
            writer.turn(turn)
        for tensor, axis, index in stream.tensors:
            set_(tensor, turn_tensor(tensor.data, axis, index, turn))
        for reader in stream.readers:
            reader.turn(turn)
    _report("residual streams are not rotated where", reasons)


@register("rotate_heads")
def rotate_heads(model: CapturedModel, setting: Setting) -> None:
    """Rotate q and k of each head together, which their product does not see, and v, which the layer behind undoes.

    Hadamard where the head's width is a power of two, random orthogonal else. Queries and keys are rotated only where
    nothing lies between the layers that make them and their product: no norm, and no rotation by position.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    apart: dict[str, list[str]] = {}
    for heads in attentions(model):
        known = heads.q or heads.v
        for part, missing in (
            ("queries and keys", heads.scores and not (heads.q and heads.k)),
            ("values", heads.mixes and not heads.v),
        ):
            if missing:
                apart.setdefault(part, []).append(heads.name)
        if known is None:
            continue
        turn = orthogonal(known.rows.shape[1], generator).to(known.layer.weight.device)
        if heads.q is not None and heads.k is not None and heads.q.rows.shape == heads.k.rows.shape:
            heads.q.turn(turn)
            heads.k.turn(turn)
        if heads.v is not None and heads.mixed is not None and heads.v.rows.shape == heads.mixed.columns.shape:
            width = heads.v.rows.shape[1]
            turn = turn if len(turn) == width else orthogonal(width, generator).to(turn)
            heads.v.turn(turn)
            heads.mixed.turn(turn)
    for part, names in apart.items():
        _report(f"{part} are not rotated where something lies between their layer and their product:", names)


def _report(what: str, reasons: Sequence[str]) -> None:
    """Print in one line what is not transformed, and why."""
    if reasons:
        others = f", and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        message(f"{what} {'; '.join(reasons[:_NAMED])}{others}")


@register("center_values")
def center_values(model: CapturedModel, setting: Setting) -> None:
    """Subtract from each channel of v its mean; rows of softmax sum to one, so the bias of the layer behind adds it again.

    The centred v is smaller, and an error in the sum of a quantized softmax row multiplies less.
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
    """A random rotation ``(n, n)``, double, that keeps the vector of ones.

    >>> turn = rotation_about_ones(6, torch.Generator().manual_seed(0))
    >>> bool(torch.allclose(turn @ turn.T, torch.eye(6).double())), bool(torch.allclose(turn.sum(0), torch.ones(6).double()))
    (True, True)
    """
    columns = torch.randn(n, n, dtype=torch.float64, generator=generator)
    columns[:, 0] = 1.0
    basis = torch.linalg.qr(columns)[0]  # its first column is along the ones
    inner = torch.eye(n, dtype=torch.float64)
    inner[1:, 1:] = _random_orthogonal(n - 1, generator)
    return basis @ inner @ basis.T


def orthogonal(n: int, generator: torch.Generator) -> Tensor:
    """A Hadamard matrix ``(n, n)`` with random signs where ``n`` is a power of two, else random orthogonal; double."""
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
