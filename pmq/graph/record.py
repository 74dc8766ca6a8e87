"""A captured graph as plain JSON: what a run keeps of it, for whoever wants to know what was simulated."""

from __future__ import annotations

from typing import Any

from torch import fx

from pmq.graph.model import CapturedModel
from pmq.graph.nodes import path_of, shape_of
from pmq.graph.operators import packet


def graph_record(model: CapturedModel) -> dict[str, Any]:
    """List the nodes of a graph by stage.

    Returns:
        ``stages``: lists of nodes, each with its ``name``, the ``operator`` or the layer or attention that it calls, the
        ``inputs`` (names of other nodes, and numbers), the ``module`` of the model that it is of, and the ``shape`` of what it
        gives, the number of images being a letter.
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
