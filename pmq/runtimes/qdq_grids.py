"""Grids of the tensors of an integer graph: those of its operands, and those that moved and joined tensors share with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pmq.runtimes.operand import DOMAIN, OPERAND, DeployOperand

Array = NDArray[Any]
#: operators that move or select values; the first input is the tensor
MOVES = (
    *("Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Expand", "Flatten", "Identity", "Gather", "Split", "Tile", "Pad"),
    *("MaxPool", "ReduceMax"),
)
JOIN = "Concat"
#: steps of a 16-bit grid in a step of the 8-bit grid of the same range: 65535 / 255. As the ratio is odd, rounding to the
#: 16-bit grid first never changes the 8-bit code, so that conversions between the two are exact.
RATIO = 257


@dataclass(frozen=True)
class Grid:
    """Fixed grid of a tensor: ``(code - zero) * scale`` for codes from 0 to ``2**bits - 1``.

    Attributes:
        name: component that it belongs to; empty for a number.
    """

    bits: int
    scale: float
    zero: int
    name: str = ""

    @classmethod
    def of(cls, operand: DeployOperand) -> Grid:
        """Return the grid of an operand."""
        scale, zero = (operand.parameters[key].reshape(-1)[0] for key in ("scale", "zero_point"))
        return cls(operand.choice.bits, float(scale), int(zero), operand.name)

    @classmethod
    def of_number(cls, number: float) -> Grid:
        """Return a grid that contains a number exactly."""
        return cls(8, abs(float(np.float32(number))) or 1.0, int(number < 0))

    def at(self, bits: int) -> Grid:
        """Return the grid, or with 16 bits the finer one of the same range."""
        if bits == self.bits:
            return self
        assert (self.bits, bits) == (8, 16), "grids are refined from 8 to 16 bits"
        return replace(self, bits=16, scale=self.scale / RATIO, zero=self.zero * RATIO)

    def scaled(self, factor: float) -> Grid:
        """Return the grid of values that are multiplied by a positive number."""
        return replace(self, scale=self.scale * factor)

    def codes(self, values: Array) -> Array:
        """Quantize values."""
        kind = np.uint8 if self.bits == 8 else np.uint16
        integers = np.round(values.astype(np.float64) / self.scale) + self.zero
        return np.clip(integers, 0, 2**self.bits - 1).astype(kind)

    @property
    def same(self) -> tuple[int, float, int]:
        """What two tensors have in common whose integers mean the same."""
        return self.bits, self.scale, self.zero


def folded(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Return the nodes of a graph that depend on its input, and all constants that they read, computed by onnxruntime."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    fixed, live, names = list[onnx.NodeProto](), list[onnx.NodeProto](), set(known)
    for node in model.graph.node:
        is_fixed = node.domain != DOMAIN and all(name in names for name in node.input if name)
        (fixed if is_fixed else live).append(node)
        names |= set(node.output) if is_fixed else set()
    computed = {name for node in fixed for name in node.output}
    read = sorted({name for node in live for name in node.input} & computed)
    if read:
        known |= dict(zip(read, _computed(model, fixed, read), strict=True))
    return live, known


def _computed(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[Array]:
    import onnxruntime

    infos = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(list(nodes), "constants", [], infos, list(model.graph.initializer))
    opsets = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    constants = helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(constants.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(list(outputs), {})]


class Grids:
    """The grid of each tensor of a graph.

    Args:
        nodes: the graph's nodes that depend on its input.
        constants: the constants that they read.
        operands: quantized tensors by component.
        known: grids that no component has, by tensor.

    Attributes:
        of: grid by tensor.
        alias: name under which each placeholder's result is computed.
        values: values of constants, by tensor.
    """

    def __init__(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: Mapping[str, Array],
        operands: Mapping[str, DeployOperand],
        known: Mapping[str, Grid] | None = None,
    ) -> None:
        self.of: dict[str, Grid] = dict(known or {})
        self.alias: dict[str, str] = {}
        self.values = dict(constants)
        for node in nodes:
            if node.domain == DOMAIN and node.op_type == OPERAND:
                self._place(node, operands)
        for step in (nodes, list(reversed(nodes)), nodes):
            forward = step is nodes
            for node in step:
                (self._forward if forward else self._backward)(node)

    def name(self, tensor: str) -> str:
        """Return the tensor that a placeholder passes on, or the tensor itself."""
        while tensor in self.alias:
            tensor = self.alias[tensor]
        return tensor

    def get(self, tensor: str) -> Grid | None:
        """Return the grid of a tensor, if it has one."""
        return self.of.get(self.name(tensor))

    def _place(self, node: onnx.NodeProto, operands: Mapping[str, DeployOperand]) -> None:
        operand = operands.get(helper.get_node_attr_value(node, "operand").decode())
        source, result = node.input[0], node.output[0]
        if source in self.values:  # each reader of a constant has a grid of its own
            self.values[result] = self.values[source]
            target = result
        else:
            self.alias[result] = target = self.name(source)
        if operand is not None:
            self.of[target] = Grid.of(operand)

    def _forward(self, node: onnx.NodeProto) -> None:
        sources: Iterable[str] = node.input[:1]
        factor = self.factor(node)
        if node.op_type == JOIN:
            sources = node.input
        elif factor is not None:
            sources = [name for name in node.input if self.name(name) not in self.values]
        elif node.op_type not in MOVES:
            return
        grids = [self.get(name) for name in sources]
        first = grids[0] if grids else None
        if first is None or any(grid is None or grid.same != first.same for grid in grids):
            return
        for result in node.output:
            self.of.setdefault(result, first.scaled(factor or 1.0))

    def _backward(self, node: onnx.NodeProto) -> None:
        """Give the grid of a moved or joined tensor to what it was made of, where that has none."""
        grid = self.get(node.output[0])
        if grid is None or (node.op_type not in MOVES and node.op_type != JOIN):
            return
        for source in node.input if node.op_type == JOIN else node.input[:1]:
            self.of.setdefault(self.name(source), grid)

    def factor(self, node: onnx.NodeProto) -> float | None:
        """Return the positive number that a node multiplies a tensor by, if it does nothing else."""
        if node.op_type not in ("Mul", "Div"):
            return None
        numbers = [self.number(name) for name in node.input]
        number = numbers[1] if node.op_type == "Div" else next((n for n in numbers if n is not None), None)
        if number is None or number <= 0:
            return None
        return 1 / number if node.op_type == "Div" else number

    def number(self, tensor: str) -> float | None:
        """Return the value of a constant without a grid of its own whose values are all the same; None for others."""
        tensor = self.name(tensor)
        if tensor not in self.values or tensor in self.of:
            return None
        values = np.asarray(self.values[tensor]).reshape(-1)
        return float(values[0]) if values.size and bool((values == values[0]).all()) else None
