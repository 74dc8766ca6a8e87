"""Recognise attention that is written out: a product that a softmax is taken of, and one that its result enters."""

from __future__ import annotations

from typing import Any

from torch import fx

from pmq.graph.operators import aten, moves, origin, packet, readers
from pmq.graph.taps import SLOTS

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


def scores_of(softmax: fx.Node) -> fx.Node | None:
    """The product that a softmax is taken of, if one alone leads to it through what may lie between."""
    node: Any = origin(softmax)
    node = node.args[0]
    while isinstance(node, fx.Node) and node.op == "call_function" and (moves(node) or packet(node) in _BETWEEN):
        node = next((a for a in node.args if isinstance(a, fx.Node) and _leads_to_product(a)), None)
    return node if isinstance(node, fx.Node) and node.op == "call_module" else None


def _leads_to_product(node: fx.Node) -> bool:
    """Whether a node gives products of queries and keys, scaled and with biases and masks added to them."""
    if node.op == "call_module":
        return node.meta.get(SLOTS, ()) == ("q", "k")
    return (moves(node) or packet(node) in _BETWEEN) and any(_leads_to_product(a) for a in node.args if isinstance(a, fx.Node))
