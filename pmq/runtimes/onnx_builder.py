"""Builder of the nodes and constants of a part of an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pmq.runtimes.skeleton import Part

Array = NDArray[Any]
#: domain of the operators that onnxruntime adds to ONNX
CONTRIB = "com.microsoft"
#: last part of the name of the node that determines a layer's mode, by which a reader identifies it
PRODUCT = "product"
#: the same of the node that returns a quantized operand
OPERAND = "operand"


class NodeBuilder:
    """Collector of the nodes and constants of one layer or operand, all named after it.

    Args:
        name: name of the layer or operand.
        lookup: operator with which the runtime looks values up in a table fastest, ``Gather`` or ``GatherElements``.
    """

    def __init__(self, name: str, lookup: str = "Gather") -> None:
        self.name, self.lookup = name, lookup
        self.part = Part([], [])

    def constant(self, leaf: str, value: Array) -> str:
        """Add a constant; return its name."""
        name = f"{self.name}.{leaf}"
        self.part.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def shared(self, name: str, value: Array) -> str:
        """Add a constant that parts share under a name of its own; return that name."""
        if all(tensor.name != name for tensor in self.part.constants):
            self.part.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def looked_up(self, table: str, index: str, leaf: str) -> str:
        """Look int32 indices of any shape up in a table ``(N,)``; return the name of the values, in the same shape."""
        if self.lookup == "Gather":
            return self.node("Gather", [table, index], leaf)
        shape = self.node("Shape", [index], f"{leaf} shape")
        flat = self.node("Reshape", [index, self.shared("sides [-1]", np.array([-1]))], f"{leaf} flat")
        return self.node("Reshape", [self.node("GatherElements", [table, flat], f"{leaf} values"), shape], leaf)

    def packed(self, leaf: str, data: Array, kind: int, shape: tuple[int, ...]) -> str:
        """Add a constant of a type that numpy lacks, from its bytes; return its name."""
        name = f"{self.name}.{leaf}"
        self.part.constants.append(helper.make_tensor(name, kind, shape, data.tobytes(), raw=True))
        return name

    def node(self, op: str, inputs: list[str], leaf: str, output: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        output = output or f"{self.name}/{leaf}"
        name = f"{self.name}/{leaf}"
        self.part.nodes.append(
            helper.make_node(op, inputs, [output], name if leaf in (PRODUCT, OPERAND) else "", domain=domain, **attributes)
        )
        return output
