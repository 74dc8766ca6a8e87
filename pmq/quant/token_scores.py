"""Scores that rank the tokens of an image by the precision they need, at run time and without gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pmq.core.registry import Registry


@dataclass
class Attention:
    """Attention to each token ``(B, T)`` in the softmax of the previous block.

    ``received`` is the mean over heads and queries, ``from_class`` the mean over heads of the class token's attention.
    """

    received: Tensor
    from_class: Tensor

    @classmethod
    def of(cls, softmax: Tensor) -> Attention:
        """Compute both means from a softmax ``(B, H, T, T)``."""
        return cls(softmax.mean((1, 2)), softmax[:, :, 0].mean(1))


#: function of tokens ``(B, T, C)`` and the previous block's attention (None in the first block) that returns scores ``(B, T)``;
#: tokens with higher scores need more precision
TokenScore = Callable[[Tensor, Attention | None], Tensor]
SCORES: Registry[TokenScore] = Registry("token score")


def value_range(x: Tensor, attention: Attention | None) -> Tensor:
    """Return the range of each token's values: the wider it is, the more a grid shared by all tokens clips of the token."""
    low, high = torch.aminmax(x, dim=-1)
    return high - low


def norm(x: Tensor, attention: Attention | None) -> Tensor:
    """Return the Euclidean norm of each token."""
    return x.norm(dim=-1)


def received(x: Tensor, attention: Attention | None) -> Tensor:
    """Return the attention that each token receives in the previous block, or its norm in the first block."""
    return norm(x, None) if attention is None else attention.received


def from_class(x: Tensor, attention: Attention | None) -> Tensor:
    """Return the class token's attention to each token in the previous block, or the token's norm in the first block."""
    return norm(x, None) if attention is None else attention.from_class


def received_range(x: Tensor, attention: Attention | None) -> Tensor:
    """Return each token's squared range, with which squared errors grow, times the attention that it receives."""
    return value_range(x, None).square() * (1 if attention is None else attention.received)


def class_range(x: Tensor, attention: Attention | None) -> Tensor:
    """Return each token's squared range, with which squared errors grow, times the class token's attention to it."""
    return value_range(x, None).square() * (1 if attention is None else attention.from_class)


def at_random(x: Tensor, attention: Attention | None) -> Tensor:
    """Return random scores, the baseline for the other scores."""
    return torch.rand(x.shape[:2], device=x.device)


for _name, _score in (
    ("random", at_random),
    ("range", value_range),
    ("norm", norm),
    ("received", received),
    ("class", from_class),
    ("received_range", received_range),
    ("class_range", class_range),
):
    SCORES.add(_name, _score)


class Ranker:
    """Ranker of the tokens of each image by a score, with the attention and the orders of the current forward pass.

    Args:
        score: name of the score.
        prefix: number of leading tokens that stay at the front.
    """

    def __init__(self, score: str, prefix: int) -> None:
        self._score, self.prefix = SCORES[score], prefix
        self.attention: Attention | None = None
        self._orders: dict[str, Tensor] = {}

    def saw(self, softmax: Tensor) -> None:
        """Store the attention of a block's softmax ``(B, H, T, T)`` for the next scores."""
        self.attention = Attention.of(softmax)

    def order(self, module: str, x: Tensor) -> Tensor:
        """Return the positions of tokens ``(B, T)`` from the highest score to the lowest, and store them for ``module``."""
        scores = self._score(x, self.attention)
        scores = torch.cat([torch.full_like(scores[:, : self.prefix], torch.inf), scores[:, self.prefix :]], 1)
        self._orders[module] = order = scores.argsort(dim=1, descending=True, stable=True)
        return order

    def known(self, module: str) -> Tensor:
        """Return the last result of :meth:`order` for ``module``."""
        return self._orders[module]

    def forget(self) -> None:
        """Clear the state before another forward pass."""
        self.attention = None
        self._orders.clear()
