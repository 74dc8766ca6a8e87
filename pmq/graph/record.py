"""Captured graph as plain JSON, which a run writes to document what was simulated."""

from __future__ import annotations

from typing import Any

from torch import fx

from pmq.graph.model import CapturedModel
from pmq.graph.nodes import path_of, shape_of
from pmq.graph.operators import packet


def graph_record(model: CapturedModel) -> dict[str, Any]:
    """Return the nodes of a graph by stage.

    Returns:
        ``stages``: lists of nodes, each with its ``name``, the ``operator``, layer or attention that it calls, its ``inputs``
        (names of other nodes, and numbers), the ``module`` of the model that it belongs to, and the ``shape`` of its value,
        in which a letter stands for the number of images.
    """
    return {"stages": [[_node(node) for node in cut.graph.nodes if node.op != "output"] for cut in model.program.cuts]}


def _node(node: fx.Node) -> dict[str, Any]:
    shape = shape_of(node)
    operator = str(node.target) if node.op != "call_function" else str(getattr(packet(node), "__name__", packet(node)))
    return {
        "name": node.name,
        "operator": {"placeholder": "input", "get_attr": "tensor"}.get(node.op, operator),
        **({"tensor": str(node.target)} if node.op == "get_attr" else {}),
        "inputs": [_argument(argument) for argument in (*node.args, *node.kwargs.values())],
        "module": path_of(node),
        "shape": None if shape is None else [size if isinstance(size, int) else str(size) for size in shape],
    }


def _argument(argument: Any) -> Any:
    if isinstance(argument, list | tuple):
        return [_argument(one) for one in argument]
    return argument if isinstance(argument, int | float | bool | None) else str(argument)
