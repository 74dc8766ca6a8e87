"""Tensors of a full-integer LiteRT graph: their types, grids and conversions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from pmq.core.errors import PmqError
from pmq.runtimes.flatbuffer import OPS, TYPES, Graph, empty_model
from pmq.runtimes.qdq_grids import Grid, Grids

Array = NDArray[Any]
#: steps of a symmetric 16-bit grid in a step of an 8-bit grid: 255 steps on either side of zero fit. As the ratio is odd,
#: rounding to the 16-bit grid first never changes the 8-bit code, so that conversions between the two are exact.
RATIO = 127
#: types of codes by bits
KINDS = {4: TYPES.INT4, 8: TYPES.INT8, 16: TYPES.INT16}


def wider(grid: Grid, bits: int) -> Grid:
    """Return a grid, or with 16 bits the finer symmetric one that contains its levels."""
    if bits == grid.bits:
        return grid
    assert (grid.bits, bits) == (8, 16), "grids are refined from 8 to 16 bits"
    return replace(grid, bits=16, scale=grid.scale / RATIO, zero=2**15)


class TensorWriter:
    """Writer of the tensors of a LiteRT graph, each of which is converted once for each width.

    Args:
        grids: grid of each tensor; without any, the graph computes in FP32.
        shapes: shape of the graph's input, by its name.
    """

    def __init__(self, grids: Grids, shapes: Mapping[str, Sequence[int]]) -> None:
        self.grids, self.b = grids, Graph(empty_model())
        self.floats = not grids.of
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(shape) for name, shape in shapes.items()}
        self._tensors: dict[tuple[str, int], int] = {}
        self._named = set[str]()

    def grid(self, tensor: str) -> Grid:
        """Return the grid of a tensor, which for a constant may be that of a number; raise if it has none."""
        number, grid = self.grids.number(tensor), self.grids.get(tensor)
        grid = Grid.of_number(number) if number is not None else grid
        if grid is None:
            raise PmqError(f"tensor {tensor!r} of the exported graph has no grid; choose another target, or another model")
        return grid

    def width(self, tensor: str) -> int:
        """Return the bits of a tensor."""
        return 32 if self.floats else self.grid(tensor).bits

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        tensor = self.grids.name(tensor)
        return self.grids.values[tensor].shape if tensor in self.grids.values else self.shapes[tensor]

    def new(self, shape: Sequence[int], grid: Grid | None, name: str = "", data: Array | None = None) -> int:
        """Add a tensor with codes on a grid, or one of floats."""
        if grid is None:
            return self.b.tensor(shape, name, TYPES.FLOAT32, None if data is None else data.astype(np.float32))
        kind, half = KINDS[grid.bits], 2 ** (grid.bits - 1)
        if data is not None:
            data = (grid.codes(data).astype(np.int32) - half).astype(np.int8 if grid.bits == 8 else np.int16)
        tensor = self.b.tensor(shape, name, kind, data)
        parameters = schema.QuantizationParametersT()
        parameters.scale, parameters.zeroPoint = np.array([grid.scale], np.float32), np.array([grid.zero - half], np.int64)
        self.b.graph.tensors[tensor].quantization = parameters
        return tensor

    def code(self, tensor: str, bits: int) -> int:
        """Return the tensor with codes of a width, which are converted from another width where necessary."""
        tensor = self.grids.name(tensor)
        key = (tensor, bits)
        if key not in self._tensors:
            grid = None if self.floats else wider(self.grid(tensor), bits)
            values = self.grids.values.get(tensor)
            if values is not None:
                self._tensors[key] = self.new(values.shape, grid, data=values)
            else:
                source = self.code(tensor, self.width(tensor))
                self._tensors[key] = self.converted(source, grid)
        return self._tensors[key]

    def converted(self, source: int, grid: Grid | None, name: str = "") -> int:
        """Convert a tensor to a grid, or to floats."""
        result = self.new(self.b.shape(source), grid, name)
        return self.b.add(OPS.DEQUANTIZE if grid is None else OPS.QUANTIZE, [source], result)

    def on_grid(self, tensor: str, grid: Grid | None) -> int:
        """Return a tensor after its conversion to a grid."""
        if grid is None or (self.grids.number(tensor) is None and self.grid(tensor).same == grid.same):
            return self.code(tensor, self.width(tensor))
        tensor = self.grids.name(tensor)
        if tensor in self.grids.values:
            values = self.grids.values[tensor]
            return self.new(values.shape, grid, data=values)
        return self.converted(self.code(tensor, self.width(tensor)), grid)

    def result(self, tensor: str, shape: Sequence[int], bits: int, fixed: float | None = None) -> int:
        """Add the result of an operator that computes a width; :meth:`finish` converts it to the tensor's own.

        ``fixed`` is the scale that 16-bit results of an operator must have.
        """
        tensor = self.grids.name(tensor)
        self.shapes[tensor] = tuple(int(side) for side in shape)
        if self.floats:
            self._tensors[tensor, 32] = self.new(shape, None)
            return self._tensors[tensor, 32]
        grid = self.grid(tensor)
        if fixed is None and bits == grid.bits:
            self._tensors[tensor, bits] = self.new(shape, grid, self._name(grid))
            return self._tensors[tensor, bits]
        wide = self.new(shape, wider(grid, bits) if fixed is None else Grid(16, fixed, 2**15))
        if fixed is None:
            self._tensors[tensor, bits] = wide
        return wide

    def finish(self, tensor: str, result: int) -> None:
        """Convert what an operator computed to the grid of the tensor, unless it is on it."""
        tensor = self.grids.name(tensor)
        if not self.floats and (tensor, self.width(tensor)) not in self._tensors:
            grid = self.grid(tensor)
            self._tensors[tensor, grid.bits] = self.converted(result, grid, self._name(grid))

    def _name(self, grid: Grid) -> str:
        """Return the component of a grid for the first tensor on it."""
        name = "" if grid.name in self._named else grid.name
        self._named.add(grid.name)
        return name

    def integers(self, name: str) -> Array:
        """Return a constant of integers, such as a shape."""
        value = self.grids.values.get(name)
        if value is None or not np.issubdtype(value.dtype, np.integer):
            raise PmqError(f"tensor {name!r} of the exported graph is computed while the model runs; export it for fixed sizes")
        return value
