"""Tokens that nothing reads: the last attention need not answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from pmq.graph.nodes import copied, shape_of
from pmq.graph.operators import aten
from pmq.graph.taps import Attention
from pmq.graph.token_axis import Fewer, Unfollowed, follow_tokens


def without_unread_tokens(graph: fx.Graph, modules: Mapping[str, nn.Module], prefix: int) -> fx.Graph:
    """Return a graph whose last attention, and all that follows, computes only the first ``prefix`` tokens.

    These are computed as before. Where something reads other tokens behind the last attention, the graph itself is returned.

    Args:
        graph: graph of a captured model.
        modules: modules that it calls, by name.
        prefix: number of tokens at the front, such as the class token.
    """
    shorter = copied(graph)
    calls = [node for node in shorter.nodes if node.op == "call_module" and isinstance(modules[str(node.target)], Attention)]
    query: Any = calls[-1].args[0] if calls else None
    shape = shape_of(query) or ()
    if prefix < 1 or len(shape) != 4:
        return graph
    n_tokens = int(shape[2])
    axes = {_front(shorter, query, 2, prefix, [calls[-1]]): 2}
    behind = _behind(shorter, calls[-1])
    beside = {source: None for node in behind for source in node.all_input_nodes if source not in behind}
    for source in beside:
        if len(shape_of(source) or ()) == 3 and shape_of(source)[1] == n_tokens:  # type: ignore[index]
            axes[_front(shorter, source, 1, prefix, [node for node in behind if source in node.all_input_nodes])] = 1
    try:
        follow_tokens(shorter, axes, Fewer(n_tokens, n_tokens - prefix, prefix), modules)
    except Unfollowed:
        return graph
    return shorter


def _behind(graph: fx.Graph, start: fx.Node) -> dict[fx.Node, None]:
    """Return the nodes that depend on a node, in order."""
    behind: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if any(source is start or source in behind for source in node.all_input_nodes):
            behind[node] = None
    return behind


def _front(graph: fx.Graph, source: fx.Node, axis: int, count: int, readers: list[fx.Node]) -> fx.Node:
    """Insert a node with the first ``count`` values of ``source`` along an axis, for some of its readers, in order."""
    with graph.inserting_before(readers[0]):
        front = graph.call_function(aten.slice.Tensor, (source, axis, 0, count))
    front.meta = dict(readers[0].meta) | {"val": source.meta["val"].narrow(axis, 0, count)}
    for reader in readers:
        reader.replace_input_with(source, front)
    return front
