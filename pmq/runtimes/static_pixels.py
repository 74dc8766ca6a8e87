"""Preparation of 8-bit pixel values in a full-integer LiteRT graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pmq.runtimes.qdq_grids import Grid
from pmq.runtimes.session import INPUT


def takes_pixels(model: onnx.ModelProto) -> bool:
    """Return whether an exported graph takes pixel values from 0 to 255."""
    return bool(model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8)


def without_casts(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return nodes that read what was cast directly: pixel values have a grid from the start."""
    cast = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Cast"}
    for node in nodes:
        node.input[:] = [cast.get(name, name) for name in node.input]
    return [node for node in nodes if node.op_type != "Cast"]


def pixel_grids(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, NDArray[Any]]) -> dict[str, Grid]:
    """Return the grids of pixel values, and of their normalization where channels differ: it has 16 bits.

    A normalization by one number for all channels needs none: it keeps the codes of the pixel values.
    """
    grids = {INPUT: Grid(8, 1.0, 0)}
    multiply = next(node for node in nodes if node.op_type == "Mul")
    add = next(node for node in nodes if node.op_type == "Add" and multiply.output[0] in node.input)
    for node in (multiply, add):
        name = next(name for name in node.input if name in constants)
        top = float(np.abs(constants[name]).max())
        if np.unique(constants[name]).size > 1:
            grids[name] = _symmetric(top)
            if node is multiply:
                grids[node.output[0]] = _symmetric(255 * top)
    return grids


def _symmetric(top: float) -> Grid:
    return Grid(16, top / (2**15 - 1), 2**15)
