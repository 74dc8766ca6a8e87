"""Recognise attention that is written out: a product that a softmax is taken of, and one that its result enters."""

from __future__ import annotations

from typing import Any

from torch import fx

from pmq.graph.operators import aten, moves, origin, packet, readers

_SOFTMAX = (aten.softmax, aten._softmax)
#: what may lie between products of q and k and their softmax: scales, biases, masks
_BETWEEN = (
    *(aten.mul, aten.div, aten.add, aten.sub, aten.masked_fill, aten.where, aten.clamp, aten.softplus),
    *(aten.copy, aten.slice_scatter, aten.select_scatter),
)


def is_softmax(node: Any) -> bool:
    """Whether an operand is a softmax whose values were moved at most."""
    return packet(origin(node)) in _SOFTMAX


def reaches_softmax(node: fx.Node) -> bool:
    """Whether a softmax is taken of a product, scaled and with biases and masks added to it."""
    passed = readers(node, lambda reader: moves(reader) or packet(reader) in _BETWEEN)
    return any(packet(reader) in _SOFTMAX for reader, _ in passed)
