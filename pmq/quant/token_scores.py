"""What tells at run time, without a gradient, which tokens of an image need precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pmq.core.registry import Registry


@dataclass
class Attention:
    """What the softmax of the block before told of each token ``(B, T)``; nothing before the first.

    ``received``: mean over heads and queries. ``from_class``: mean over heads of what the class token attends to.
    """

    received: Tensor
    from_class: Tensor

    @classmethod
    def of(cls, softmax: Tensor) -> Attention:
        """Read ``(B, H, T, T)``."""
        return cls(softmax.mean((1, 2)), softmax[:, :, 0].mean(1))


#: tokens ``(B, T, C)`` and the attention before -> scores ``(B, T)``, higher for tokens to be kept precise
TokenScore = Callable[[Tensor, Attention | None], Tensor]
SCORES: Registry[TokenScore] = Registry("token score")


def value_range(x: Tensor, attention: Attention | None) -> Tensor:
    """Largest less smallest value: the error of a grid that the token shares with others grows with what it clips."""
    low, high = torch.aminmax(x, dim=-1)
    return high - low


def norm(x: Tensor, attention: Attention | None) -> Tensor:
    """Euclidean."""
    return x.norm(dim=-1)


def received(x: Tensor, attention: Attention | None) -> Tensor:
    """Attention received in the block before; the norm before there is any."""
    return norm(x, None) if attention is None else attention.received


def from_class(x: Tensor, attention: Attention | None) -> Tensor:
    """Attention of the class token in the block before; the norm before there is any."""
    return norm(x, None) if attention is None else attention.from_class


def received_range(x: Tensor, attention: Attention | None) -> Tensor:
    """Importance times what a squared error grows with."""
    return value_range(x, None).square() * (1 if attention is None else attention.received)


def class_range(x: Tensor, attention: Attention | None) -> Tensor:
    """Importance to the class token times what a squared error grows with."""
    return value_range(x, None).square() * (1 if attention is None else attention.from_class)


def at_random(x: Tensor, attention: Attention | None) -> Tensor:
    """No score at all: what others must beat."""
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
    """Orders the tokens of each image by a score; keeps what it has seen of a forward pass.

    Args:
        score: its name.
        prefix: tokens at the front that keep their places.
    """

    def __init__(self, score: str, prefix: int) -> None:
        self._score, self.prefix = SCORES[score], prefix
        self.attention: Attention | None = None
        self._orders: dict[str, Tensor] = {}

    def saw(self, softmax: Tensor) -> None:
        """Remember a block's softmax ``(B, H, T, T)``."""
        self.attention = Attention.of(softmax)

    def order(self, module: str, x: Tensor) -> Tensor:
        """Positions of tokens ``(B, T)`` from the highest score to the lowest, and remember them for ``module``."""
        scores = self._score(x, self.attention)
        scores = torch.cat([torch.full_like(scores[:, : self.prefix], torch.inf), scores[:, self.prefix :]], 1)
        self._orders[module] = order = scores.argsort(dim=1, descending=True, stable=True)
        return order

    def known(self, module: str) -> Tensor:
        """What :meth:`order` said last of ``module``."""
        return self._orders[module]

    def forget(self) -> None:
        """A new forward pass begins."""
        self.attention = None
        self._orders.clear()
