"""What a node of a captured graph tells: the module that it is of, and its shape."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx

_CALL = re.compile(r"@\d+")


def stack_of(node: fx.Node) -> list[str]:
    """Names of the modules that a node was called within, outermost first, each with the number of its call."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    return [path for path, _ in stack.values() if not path.startswith("_")]


def path_of(node: fx.Node) -> str:
    """Name of the innermost module that a node was called within; empty for the model itself."""
    stack = stack_of(node)
    return _CALL.sub("", stack[-1]) if stack else ""


def shape_of(node: Any) -> tuple[Any, ...] | None:
    """Shape of what a node gives, the number of images being a symbol; nothing where it gives no tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else None


def is_fixed(size: Any) -> bool:
    """Whether a size is a number, and no symbol that stands for any."""
    return isinstance(size, int) or (isinstance(size, torch.SymInt) and bool(size.node.expr.is_number))


def batch_axis(node: fx.Node) -> int:
    """The axis along which a node's images lie: the first whose size is not a number; 0 where all are."""
    shape = shape_of(node) or ()
    return next((axis for axis, size in enumerate(shape) if not is_fixed(size)), 0)


def same_shape(one: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes give tensors of the same shape."""
    a, b = shape_of(one), shape_of(other)
    return a is not None and b is not None and len(a) == len(b) and all(str(x) == str(y) for x, y in zip(a, b, strict=True))


def calls_of(graph: fx.Graph) -> Counter[str]:
    """How often each module is called."""
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_module")


def drop_unread(graph: fx.Graph) -> None:
    """Remove nodes that nobody reads: none of a captured graph does anything but give its result."""
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))


def copied(graph: fx.Graph) -> fx.Graph:
    """The same graph of other nodes."""
    found = fx.Graph()
    result = found.graph_copy(graph, {})
    found.output(result)
    return found
