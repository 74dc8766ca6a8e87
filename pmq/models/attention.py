"""Prove of an attention that its products are those that a rule takes them for.

A module that keeps ``qkv`` in one Linear may still lay heads out otherwise, or rotate q and k before it multiplies. So it is
run twice with random values in place of the output of ``qkv``, and what comes out has to be explained by their thirds.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pmq.models.trace import Call, unfused

#: relative error of an explanation that counts as rounding
TOLERANCE = 1e-3
#: rows of the softmax that are looked at in each window and head, at most
ROWS = 64
#: of a softmax, whose logarithm is not precise below
_LEAST = 1e-12


@dataclass(frozen=True)
class Layout:
    """Sizes of an attention in one call: softmax is ``(windows, heads, tokens, tokens)``, q, k and v ``(..., tokens, width)``."""

    windows: int
    heads: int
    tokens: int
    width: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of each of its two products."""
        return self.windows * self.heads * self.tokens**2 * self.width


class Unexplained(Exception):
    """The products of an attention are others than the rule takes them for; says why."""


def is_attention(module: nn.Module) -> bool:
    """Whether ``module`` looks as if q, k, softmax and v could be reached, like timm's ``Attention`` and ``WindowAttention``."""
    return isinstance(getattr(module, "qkv", None), nn.Linear) and all(
        hasattr(module, a) for a in ("attn_drop", "num_heads", "fused_attn", "proj")
    )


def explain(attention: nn.Module, call: Call) -> Layout:
    """Give the layout of an attention's products as it was called.

    Raises:
        Unexplained: q, k and v as multiplied are not the thirds of its ``qkv`` by heads (q and k after their norms, if it
            has any), or what ``attn_drop`` passes on is not what multiplies v.
    """
    first, second = _run(attention, call, 0), _run(attention, call, 1)
    if not all(any(_equal(run.softmax @ run.v, mixed) for mixed in run.mixed) for run in (first, second)):
        raise Unexplained("v is not the last third of qkv by heads, or softmax or its product with v is changed")
    if not _products_explain(first, second):
        raise Unexplained("q and k are not thirds of qkv by heads, or changed before they are multiplied")
    return Layout(*first.v.shape)


@dataclass(frozen=True)
class _Run:
    """Operands by windows and heads, of softmax and q some rows; and what ``mixed``, their product with v, may be."""

    q: Tensor
    k: Tensor
    v: Tensor
    softmax: Tensor
    mixed: list[Tensor]


@torch.no_grad()
def _run(attention: Any, call: Call, seed: int) -> _Run:
    """Run an attention as it was called, with random q, k and v."""
    seen: dict[str, list[Tensor]] = defaultdict(list)
    rows = slice(None)

    def invent(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        values = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
        seen["qkv"].append(values)
        return values.clone()  # which may be changed in place

    def look(module: nn.Module, args: Any, softmax: Tensor) -> None:
        nonlocal rows
        rows = slice(None, None, -(-softmax.shape[-1] // ROWS))
        seen["attn_drop"].append(softmax[..., rows, :].clone())

    named = {name: getattr(attention, name, None) for name in ("q_norm", "k_norm", "norm", "proj")}
    parts: dict[str, nn.Module] = {name: part for name, part in named.items() if isinstance(part, nn.Module)}
    norms = [name for name in parts if name.endswith("_norm") and not isinstance(parts[name], nn.Identity)]
    readers = [name for name in parts if not name.endswith("_norm")]
    with ExitStack() as stack, unfused(attention):
        hooks = [attention.qkv.register_forward_hook(invent), attention.attn_drop.register_forward_hook(look)]
        hooks += [parts[n].register_forward_hook(lambda m, args, out, n=n: seen[n].append(out)) for n in norms]
        hooks += [parts[n].register_forward_pre_hook(lambda m, args, n=n: seen[n].extend(args)) for n in readers]
        for hook in hooks:
            stack.callback(hook.remove)
        attention(*call.args, **call.kwargs)
    for name in ("qkv", "attn_drop", *norms):
        if len(seen[name]) != 1:
            raise Unexplained(f"{name} is called more than once in it" if seen[name] else f"{name} is not called as a module")
    (softmax,), (qkv,), heads = seen["attn_drop"], seen["qkv"], int(attention.num_heads)
    tokens, width = softmax.shape[-1], qkv.shape[-1] // (3 * heads)
    by_heads = softmax.ndim == 4 and softmax.shape[1] == heads
    if not by_heads or qkv.numel() != softmax.shape[0] * tokens * 3 * heads * width:
        raise Unexplained("its softmax is not one of all tokens by windows and heads")
    q, k, v = qkv.reshape(-1, tokens, 3, heads, width).permute(2, 0, 3, 1, 4)
    q, k = (seen[name][0] if name in norms else third for name, third in (("q_norm", q), ("k_norm", k)))
    if q.shape != v.shape or k.shape != v.shape:
        raise Unexplained("q and k are normed before they are divided into heads")
    given = (x for name in readers for x in seen[name] if isinstance(x, Tensor) and x.numel() == v.numel())
    mixed = [x.reshape(-1, tokens, heads, width).transpose(1, 2)[..., rows, :] for x in given]
    return _Run(q[..., rows, :], k, v, softmax, mixed)


def _products_explain(first: _Run, second: _Run) -> bool:
    """Whether products of q and k explain the softmax, up to a scale for each head and a bias of each position.

    The bias is the same in two runs: what their logarithms differ by, without the mean of each row, are scaled products.
    """
    products = first.q @ first.k.mT - second.q @ second.k.mT
    seen = (first.softmax > _LEAST) & (second.softmax > _LEAST)  # what a mask leaves
    logarithms = torch.where(seen, first.softmax.log() - second.softmax.log(), 0)
    products = torch.where(seen, products, 0)
    for values in (products, logarithms):
        mean = values.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp(min=1)
        values.sub_(torch.where(seen, mean, 0))
    scale = (products * logarithms).sum((0, 2, 3), keepdim=True) / products.square().sum((0, 2, 3), keepdim=True).clamp(min=1e-30)
    alive = bool((scale > 0).all()) or not bool(products.any())  # of a single token there is nothing to explain
    return alive and _equal(products * scale, logarithms)


def _equal(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).norm() <= TOLERANCE * wanted.norm())
