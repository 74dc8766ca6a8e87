"""Modules of a graph that merges tokens: the merging, and what attention adds for tokens that stand for several patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MergeTokens(nn.Module):
    """Module that merges the most similar tokens (ToMe, arXiv 2210.09461), in operators that every runtime has.

    Every second patch looks for the nearest one among the others. The ``count`` patches that lose least are merged into theirs,
    by the mean weighted with the number of patches that each token stands for. A patch loses its squared distance to the other,
    times the attention that the first token, the class token, pays to it: what the class token does not read may change more.
    Distances are those of tokens without the mean of their channels, which LayerNorm does not read and transforms of the model
    may remove. Products with rows of the identity scatter tokens.

    Args:
        count: number of tokens to merge, at most half of the patches.
        prefix: number of tokens at the front, such as the class token, which are not merged.
        scale: factor of the products of queries and keys.
    """

    def __init__(self, count: int, prefix: int, scale: float) -> None:
        super().__init__()
        self.count, self.prefix, self.scale = count, prefix, scale

    def forward(self, x: Tensor, q: Tensor, k: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the tokens ``(B, N - count, C)`` of ``x`` ``(B, N, C)``, and how many patches each stands for ``(B, N, 1)``.

        Args:
            x: tokens.
            q: queries ``(B, H, N, D)`` of the attention before.
            k: keys ``(B, H, N, D)`` of the attention before.
            size: number of patches that each token stands for ``(B, N, 1)``; one without it.
        """
        p, others = self.prefix, x[:, self.prefix + 1 :: 2]
        centred = x - x.mean(-1, keepdim=True)
        squares = centred.square().sum(-1)
        products = centred[:, p::2] @ (2 * centred[:, p + 1 :: 2]).mT
        nearness, target = (products - squares[:, None, p + 1 :: 2]).max(-1)
        attention = (q[:, :, :1] @ k.mT * self.scale).softmax(-1).mean(1)[:, 0, p::2]
        n_seeking, kept = nearness.shape[1], nearness.shape[1] - self.count
        order = ((squares[:, p::2] - nearness) * attention).topk(n_seeking, dim=-1).indices
        seeking = _gathered(x, p + 2 * order)
        into = _rows(target.gather(1, order[:, kept:]), others.shape[1]).mT
        if size is None:
            total = 1 + into.sum(-1, keepdim=True)
            sizes = [torch.ones_like(x[:, : p + kept, :1]), total]
        else:
            of_seeking, of_others = _gathered(size, p + 2 * order), size[:, p + 1 :: 2]
            into, others = into * of_seeking[:, kept:].mT, others * of_others
            total = of_others + into.sum(-1, keepdim=True)
            sizes = [size[:, :p], of_seeking[:, :kept], total]
        merged = (others + into @ seeking[:, kept:]) / total
        return torch.cat([x[:, :p], seeking[:, :kept], merged], 1), torch.cat(sizes, 1)


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """Return the tokens ``(B, K, C)`` of ``x`` ``(B, N, C)`` that ``index`` ``(B, K)`` names for each image, as whole rows."""
    first = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (first + index).flatten()).unflatten(0, index.shape)


def _rows(index: Tensor, count: int) -> Tensor:
    """Return the rows of the identity ``(..., count)`` that ``index`` names."""
    return (index[..., None] == torch.arange(count, device=index.device)).to(torch.float32)


class LogSizes(nn.Module):
    """Module that returns what proportional attention adds to its logits for tokens of ``size`` ``(B, N, 1)``."""

    def forward(self, size: Tensor) -> Tensor:
        """Return ``log(size)`` as ``(B, 1, 1, N)``."""
        return size.log().mT[:, None]
