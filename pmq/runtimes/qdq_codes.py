"""Tensors of an integer graph in codes: how they are quantized, dequantized and converted between widths and grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pmq.core.errors import PmqError
from pmq.runtimes.onnx_builder import OPERAND as TENSOR
from pmq.runtimes.qdq_grids import Grid, Grids

Array = NDArray[Any]


class CodeWriter:
    """Writer of the tensors of an integer graph, each of which is quantized once and dequantized once for each width.

    Args:
        grids: grid of each tensor.

    Attributes:
        nodes: nodes written so far.
        constants: constants written so far, by name.
    """

    def __init__(self, grids: Grids) -> None:
        self.grids = grids
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._codes: dict[tuple[str, int], str] = {}
        self._floats: dict[tuple[str, int], str] = {}
        self._calls: dict[str, int] = {}

    def grid(self, tensor: str) -> Grid:
        """Return the grid of a tensor; raise if it has none."""
        grid = self.grids.get(tensor)
        if grid is None:
            raise PmqError(f"tensor {tensor!r} of the exported graph has no grid; choose another target, or another model")
        return grid

    def node(self, op: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        self.nodes.append(helper.make_node(op, list(inputs), [output], name, **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """Add a constant; return its name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def parameters(self, grid: Grid) -> list[str]:
        """Add scale and zero point of a grid, which tensors share; return their names."""
        scale, kind = np.float32(grid.scale), np.uint8 if grid.bits == 8 else np.uint16
        return [
            self.constant(f"scale {scale.view(np.uint32):08x}", np.array(scale)),
            self.constant(f"zero {grid.zero} of {grid.bits}", np.array(grid.zero, kind)),
        ]

    def code(self, tensor: str, bits: int) -> str:
        """Return the codes of a tensor at a width, which are converted from another width where necessary."""
        tensor = self.grids.name(tensor)
        key = (tensor, bits)
        if key in self._codes:
            return self._codes[key]
        name = f"{tensor} {bits}"
        if tensor in self.grids.values:
            number = self.grids.number(tensor)
            grid = (Grid.of_number(number) if number is not None else self.grid(tensor)).at(bits)
            self._codes[key] = self.constant(name, grid.codes(self.grids.values[tensor]))
            return self._codes[key]
        grid = self.grid(tensor)
        floats = self.floats(tensor, grid.bits)
        self._codes[key] = self.node("QuantizeLinear", [floats, *self.parameters(grid.at(bits))], name)
        return self._codes[key]

    def floats(self, tensor: str, bits: int) -> str:
        """Return the dequantized values of a tensor at a width."""
        tensor = self.grids.name(tensor)
        key = (tensor, bits)
        if key not in self._floats:
            number = self.grids.number(tensor)
            grid = (Grid.of_number(number) if number is not None else self.grid(tensor)).at(bits)
            codes = self.code(tensor, bits)
            self._floats[key] = self.node("DequantizeLinear", [codes, *self.parameters(grid)], f"{tensor} {bits} float")
        return self._floats[key]

    def write(self, tensor: str, floats: str, bits: int, fixed: tuple[float, int] | None = None) -> None:
        """Quantize what an operator computes, at the width of its result, and convert it to the tensor's own width."""
        grid = self.grid(tensor)
        tensor = self.grids.name(tensor)
        name = f"{grid.name}/{TENSOR}"
        if fixed is not None:
            wide = self.parameters(Grid(16, *fixed))
            codes = self.node("QuantizeLinear", [floats, *wide], f"{tensor} fixed")
            floats = self.node("DequantizeLinear", [codes, *wide], f"{tensor} fixed float")
        elif bits != grid.bits:
            wide = self.parameters(grid.at(bits))
            self._codes[tensor, bits] = self.node("QuantizeLinear", [floats, *wide], f"{tensor} {bits}")
            floats = self.floats(tensor, bits)
        name = "" if name in self._calls else name
        self._calls[name] = 1
        self._codes[tensor, grid.bits] = self.node(
            "QuantizeLinear", [floats, *self.parameters(grid)], f"{tensor} {grid.bits}", name
        )

    def width(self, tensor: str) -> int:
        """Return the bits of a tensor; any width holds a number."""
        return 8 if self.grids.number(tensor) is not None else self.grid(tensor).bits

    def integers(self, name: str) -> str:
        """Add a constant of integers, such as a shape."""
        if not name:
            return name
        value = self.grids.values.get(name)
        if value is None or not (np.issubdtype(value.dtype, np.integer) or not np.any(value)):
            raise PmqError(f"tensor {name!r} of the exported graph is computed while the model runs; export it for fixed sizes")
        return self.constant(name, value)

    def on_grid(self, tensor: str, grid: Grid) -> str:
        """Return the dequantized values of a tensor after its conversion to a grid."""
        if self.grids.number(tensor) is None and self.grid(tensor).same == grid.same:
            return self.floats(tensor, grid.bits)
        tensor = self.grids.name(tensor)
        name, parameters = f"{tensor} as {grid.name}", self.parameters(grid)
        if tensor in self.grids.values:
            codes = self.constant(name, grid.codes(self.grids.values[tensor]))
        else:
            codes = self.node("QuantizeLinear", [self.floats(tensor, self.width(tensor)), *parameters], name)
        return self.node("DequantizeLinear", [codes, *parameters], f"{name} float")

    def requantized(self, floats: str, grid: Grid) -> str:
        """Quantize and dequantize values between two operators of one layer."""
        codes = self.node("QuantizeLinear", [floats, *self.parameters(grid)], f"{floats} {grid.bits}")
        return self.node("DequantizeLinear", [codes, *self.parameters(grid)], f"{floats} {grid.bits} float")

    def bias(self, name: str, value: Array, scale: Array) -> str:
        """Add a bias of 32-bit integers with the scale of the products that it is added to."""
        codes = np.round(np.asarray(value, np.float64) / scale.astype(np.float64))
        if np.abs(codes).max(initial=0.0) >= 2**31:
            raise PmqError(f"{name!r} does not fit into 32 bits at the scale of its products; give what it is added to 8 bits")
        axis: dict[str, Any] = {"axis": 0} if scale.ndim else {}
        parts = [self.constant(name, codes.astype(np.int32)), self.constant(f"{name}.scale", scale)]
        return self.node("DequantizeLinear", parts, f"{name} float", **axis)
