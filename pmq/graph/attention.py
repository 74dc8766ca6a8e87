"""Recognition of attention that is written out as two products with a softmax between them."""

from __future__ import annotations

from typing import Any

from torch import fx

from pmq.graph.operators import aten, moves, origin, packet, readers
from pmq.graph.taps import SLOTS

_SOFTMAX = (aten.softmax, aten._softmax)
#: operators allowed between the product of queries and keys and its softmax: scales, biases, masks
_BETWEEN = (
    *(aten.mul, aten.div, aten.add, aten.sub, aten.masked_fill, aten.where, aten.clamp, aten.softplus),
    *(aten.copy, aten.slice_scatter, aten.select_scatter),
)


def is_softmax(node: Any) -> bool:
    """Return whether an operand is a softmax, possibly with its values moved."""
    return packet(origin(node)) in _SOFTMAX


def reaches_softmax(node: fx.Node) -> bool:
    """Return whether a product, after scales, biases and masks, is the input of a softmax."""
    downstream = readers(node, lambda reader: moves(reader) or packet(reader) in _BETWEEN)
    return any(packet(reader) in _SOFTMAX for reader, _ in downstream)


def scores_of(softmax: fx.Node) -> fx.Node | None:
    """Return the product that is the input of a softmax, behind scales, biases and masks; None where there is no such product."""
    node: Any = origin(softmax)
    node = node.args[0]
    while isinstance(node, fx.Node) and node.op == "call_function" and (moves(node) or packet(node) in _BETWEEN):
        node = next((a for a in node.args if isinstance(a, fx.Node) and _leads_to_product(a)), None)
    return node if isinstance(node, fx.Node) and node.op == "call_module" else None


def _leads_to_product(node: fx.Node) -> bool:
    """Return whether a node computes products of queries and keys, possibly with scales, biases and masks."""
    if node.op == "call_module":
        return node.meta.get(SLOTS, ()) == ("q", "k")
    return (moves(node) or packet(node) in _BETWEEN) and any(_leads_to_product(a) for a in node.args if isinstance(a, fx.Node))
