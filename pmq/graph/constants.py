"""Parts of a graph that do not depend on the images: computed weights, composed biases, tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pmq.graph.macs import macs_of
from pmq.graph.nodes import drop_unread, path_of
from pmq.graph.operators import MULTIPLIES, packet


class Constants:
    """Constant nodes of a graph, which do not depend on the images, and their values.

    Args:
        graph: captured graph.
        tensors: the tensors that its ``get_attr`` nodes name.
    """

    def __init__(self, graph: fx.Graph, tensors: Mapping[str, Tensor]) -> None:
        self._graph, self._tensors = graph, tensors
        self._depends: set[fx.Node] = set()
        for node in graph.nodes:
            if node.op == "placeholder" or any(source in self._depends for source in node.all_input_nodes):
                self._depends.add(node)
        self._values: dict[fx.Node, Any] = {}

    def holds(self, node: Any) -> bool:
        """Return whether an operand is a node whose value is the same for all images."""
        return isinstance(node, fx.Node) and node not in self._depends

    @torch.no_grad()
    def value(self, node: fx.Node) -> Any:
        """Return the value of a constant node."""
        if node not in self._values:
            if node.op == "get_attr":
                self._values[node] = self._tensors[str(node.target)]
            else:
                arguments, settings = (fx.map_arg(part, self.value) for part in (node.args, node.kwargs))
                self._values[node] = node.target(*arguments, **settings)  # type: ignore[operator,arg-type]
        return self._values[node]

    def fold_products(self) -> tuple[dict[str, Tensor], list[tuple[str, int]]]:
        """Fold constants that take products to compute, such as the output of a network of positions, in place.

        Returns:
            The tensors of the graph's new ``get_attr`` nodes, as parameters where they are floating-point, so that they are
            saved with the model; and for each folded product its module and its multiply-accumulates.
        """
        tainted = set[fx.Node]()
        for node in self._graph.nodes:
            if self.holds(node) and (packet(node) in MULTIPLIES or any(source in tainted for source in node.all_input_nodes)):
                tainted.add(node)
        folded: dict[str, Tensor] = {}
        products = [
            (path_of(node), self._macs(node)) for node in self._graph.nodes if node in tainted and packet(node) in MULTIPLIES
        ]
        for node in [n for n in tainted if any(user not in tainted for user in n.users)]:
            value = self.value(node)
            if not isinstance(value, Tensor):
                continue
            name, count = f"{path_of(node)}.folded".lstrip("."), 1
            while name in self._tensors or name in folded:
                count += 1
                name = f"{path_of(node)}.folded{count}".lstrip(".")
            folded[name] = nn.Parameter(value.detach().clone(), requires_grad=False) if value.is_floating_point() else value
            with self._graph.inserting_before(node):
                new = self._graph.get_attr(name)
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
        drop_unread(self._graph)
        return folded, products

    def _macs(self, node: fx.Node) -> int:
        arguments, settings = (fx.map_arg(part, self.value) for part in (node.args, node.kwargs))
        with torch.no_grad():
            return macs_of(lambda: node.target(*arguments, **settings))  # type: ignore[operator,arg-type]

    def sources(self, node: fx.Node) -> list[str]:
        """Return the names of the tensors that a constant node is computed from, in the order of its operands."""
        if node.op == "get_attr":
            return [str(node.target)]
        return list(dict.fromkeys(name for source in node.all_input_nodes for name in self.sources(source)))
