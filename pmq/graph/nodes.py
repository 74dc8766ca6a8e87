"""Properties of the nodes of a captured graph: the module that a node belongs to, and its shape."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx

_CALL = re.compile(r"@\d+")


def stack_of(node: fx.Node) -> list[str]:
    """Return the names of the modules around a node, outermost first, each with the number of its call."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    return [path for path, _ in stack.values() if not path.startswith("_")]


def path_of(node: fx.Node) -> str:
    """Return the name of the innermost module around a node; empty for the model itself."""
    stack = stack_of(node)
    return _CALL.sub("", stack[-1]) if stack else ""


def shape_of(node: Any) -> tuple[Any, ...] | None:
    """Return the shape of a node's value, with a symbol for the number of images; None if the value is no tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else None


def is_fixed(size: Any) -> bool:
    """Return whether a size is a number, not a symbol."""
    return isinstance(size, int) or (isinstance(size, torch.SymInt) and bool(size.node.expr.is_number))


def batch_axis(node: fx.Node) -> int:
    """Return the batch axis of a node: the first axis whose size is a symbol; 0 if there is none."""
    shape = shape_of(node) or ()
    return next((axis for axis, size in enumerate(shape) if not is_fixed(size)), 0)


def same_shape(one: fx.Node, other: fx.Node) -> bool:
    """Return whether the values of two nodes are tensors of the same shape."""
    a, b = shape_of(one), shape_of(other)
    return a is not None and b is not None and len(a) == len(b) and all(str(x) == str(y) for x, y in zip(a, b, strict=True))


def calls_of(graph: fx.Graph) -> Counter[str]:
    """Return the number of calls of each module."""
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_module")


def drop_unread(graph: fx.Graph) -> None:
    """Remove nodes without readers; nodes of a captured graph have no side effects."""
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))


def copied(graph: fx.Graph) -> fx.Graph:
    """Return a copy of a graph, with nodes of its own."""
    duplicate = fx.Graph()
    result = duplicate.graph_copy(graph, {})
    duplicate.output(result)
    return duplicate
