"""Recognise attention that is written out: a product that a softmax is taken of, and one that its result enters."""

from __future__ import annotations

from typing import Any

from torch import fx

from pmq.graph.operators import aten, moves, packet

_SOFTMAX = (aten.softmax, aten._softmax)
#: what may lie between products of q and k and their softmax: scales, biases, masks
_BETWEEN = (
    *(aten.mul, aten.div, aten.add, aten.sub, aten.masked_fill, aten.where, aten.clamp, aten.softplus),
    *(aten.copy, aten.slice_scatter, aten.select_scatter),
)


def is_softmax(node: Any) -> bool:
    """Whether an operand is a softmax whose values were moved at most."""
    while isinstance(node, fx.Node) and moves(node):
        node = node.args[0]
    return packet(node) in _SOFTMAX


def reaches_softmax(node: fx.Node) -> bool:
    """Whether a softmax is taken of a product, scaled and with biases and masks added to it."""
    seen: set[fx.Node] = set()
    left = list(node.users)
    while left:
        user = left.pop()
        if user in seen:
            continue
        seen.add(user)
        if packet(user) in _SOFTMAX:
            return True
        if moves(user) or packet(user) in _BETWEEN:
            left += user.users
    return False
