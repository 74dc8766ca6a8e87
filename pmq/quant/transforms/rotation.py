"""Orthogonal rotations folded into weights: they spread outliers over all channels and cost nothing at run time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pmq.models.attention import is_attention
from pmq.quant.transforms.base import Setting, register
from pmq.quant.transforms.statistics import channel_statistics
from pmq.quant.transforms.structure import residual_streams, set_


@register("rotate_residual")
def rotate_residual(model: nn.Module, setting: Setting) -> None:
    """Rotate residual streams about the all-ones direction, so that LayerNorm, once folded, commutes with it.

    QuaRot (2404.00456) does this for RMSNorm; a rotation that keeps ``(1, ..., 1)`` keeps each token's mean and variance
    as well. Streams read through norms that still have an affine of their own are left alone.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    for stream in residual_streams(model):
        if not all(_is_folded(pair.norm) for pair in stream.pairs):
            continue
        turn = rotation_about_ones(stream.width, generator).to(stream.writers[0].weight.device)
        for writer in stream.writers:
            weight = writer.weight.double()
            set_(writer.weight, torch.tensordot(turn.T, weight, 1))
            if writer.bias is not None:
                set_(writer.bias, writer.bias.double() @ turn)
        for tensor in stream.tensors:
            set_(tensor, tensor.double() @ turn)
        for pair in stream.pairs:
            for reader in pair.readers:
                parts = reader.weight.double().unflatten(1, (-1, stream.width))
                set_(reader.weight, (parts @ turn).flatten(1))


@register("rotate_heads")
def rotate_heads(model: nn.Module, setting: Setting) -> None:
    """Rotate q and k of each head together, which their product does not see, and v, which ``proj`` undoes.

    Hadamard where the head's width is a power of two, random orthogonal else. A head's queries and keys may be rotated
    because vision transformers encode positions outside of them.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    for attention in _attentions(model):
        heads = attention.num_heads
        weight = attention.qkv.weight.double()
        bias = None if attention.qkv.bias is None else attention.qkv.bias.double()
        width = weight.shape[0] // 3 // heads
        turn = orthogonal(width, generator).to(weight.device)
        parts = [p for p in range(3) if p == 2 or (_is_identity(attention, "q_norm") and _is_identity(attention, "k_norm"))]
        if not _is_identity(attention, "norm"):
            parts = [p for p in parts if p != 2]
        blocks = weight.reshape(3, heads, width, -1).clone()
        shifts = None if bias is None else bias.reshape(3, heads, width).clone()
        for part in parts:
            blocks[part] = torch.einsum("de,hdi->hei", turn, blocks[part])
            if shifts is not None:
                shifts[part] = shifts[part] @ turn
        set_(attention.qkv.weight, blocks.reshape(weight.shape))
        if shifts is not None:
            set_(attention.qkv.bias, shifts.reshape(-1))
        if 2 in parts:
            proj = attention.proj.weight.double()
            set_(attention.proj.weight, (proj.reshape(-1, heads, width) @ turn).reshape(proj.shape))


@register("center_values")
def center_values(model: nn.Module, setting: Setting) -> None:
    """Subtract from each channel of v its mean; rows of softmax sum to one, so ``proj``'s bias adds it again.

    What is left of v is smaller, and an error in the sum of a quantized softmax row multiplies less.
    """
    attentions = [a for a in _attentions(model) if a.qkv.bias is not None and a.proj.bias is not None]
    attentions = [a for a in attentions if _is_identity(a, "norm")]
    statistics = channel_statistics(model, [a.qkv for a in attentions], setting, of_output=True)
    for attention, (mean, _) in zip(attentions, statistics, strict=True):
        values = mean.chunk(3)[2]
        bias = attention.qkv.bias.double()
        set_(attention.qkv.bias, torch.cat([*bias.chunk(3)[:2], bias.chunk(3)[2] - values]))
        set_(attention.proj.bias, attention.proj.bias.double() + attention.proj.weight.double() @ values)


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


def _attentions(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if is_attention(m) and isinstance(getattr(m, "proj", None), nn.Linear)]


def _is_identity(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), nn.Identity | type(None))


def _is_folded(norm: nn.LayerNorm) -> bool:
    return bool((norm.weight == 1).all()) and not bool(norm.bias.any())
