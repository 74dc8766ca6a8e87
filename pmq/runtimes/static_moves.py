"""Operators of a LiteRT graph that move values, whose codes stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import helper

from pmq.core.errors import PmqError
from pmq.runtimes.flatbuffer import OPS
from pmq.runtimes.static_codes import TensorWriter

#: operators that only change the shape
RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def move(writer: TensorWriter, node: onnx.NodeProto) -> None:
    """Add an operator that moves values.

    Raises:
        PmqError: LiteRT has no such operator in integers.
    """
    source, bits = node.input[0], writer.width(node.input[0])
    shape, x = writer.shape(source), writer.code(source, bits)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Split":
        axis, start = int(attributes.get("axis", 0)) % len(shape), 0
        for output, size in zip(node.output, _sizes(writer, node, shape[axis]), strict=True):
            _cut(writer, x, output, bits, [(start, start + size, 1) if i == axis else (0, n, 1) for i, n in enumerate(shape)])
            start += size
        return
    output = node.output[0]
    if node.op_type in RESHAPES:
        new = _reshaped(writer, node, shape, attributes)
        y = writer.result(output, new, bits)
        writer.b.add(OPS.RESHAPE, [x, writer.b.constant(np.array(new, np.int32))], y)
    elif node.op_type == "Transpose":
        order = [int(i) for i in attributes["perm"]]
        writer.b.transpose(x, order, writer.result(output, [shape[i] for i in order], bits))
    elif node.op_type == "Slice":
        _cut(writer, x, output, bits, _ranges(writer, node, shape))
    elif node.op_type == "Gather":
        axis, index = int(attributes.get("axis", 0)) % len(shape), writer.integers(node.input[1])
        options = schema.GatherOptionsT()
        options.axis = axis
        y = writer.result(output, (*shape[:axis], *index.shape, *shape[axis + 1 :]), bits)
        places = np.where(index < 0, index + shape[axis], index).astype(np.int32)
        writer.b.add(OPS.GATHER, [x, writer.b.constant(np.array(places, np.int32))], y, options)
    elif node.op_type == "Expand":
        new = list(np.broadcast_shapes(shape, tuple(int(n) for n in writer.integers(node.input[1]))))
        y = writer.result(output, new, bits)
        writer.b.add(OPS.BROADCAST_TO, [x, writer.b.constant(np.array(new, np.int32))], y)
    else:
        raise PmqError(f"operator {node.op_type} has no form in LiteRT's integers; choose another target, or another model")


def _reshaped(writer: TensorWriter, node: onnx.NodeProto, shape: Sequence[int], attributes: dict[str, Any]) -> list[int]:
    """Return the shape of what a reshape computes."""
    if node.op_type == "Identity":
        return list(shape)
    if node.op_type == "Flatten":
        axis = int(attributes.get("axis", 1))
        return [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))]
    sides = [int(n) for n in writer.integers(node.input[1]).reshape(-1)] if len(node.input) > 1 else []
    if node.op_type == "Reshape":
        kept = [shape[i] if n == 0 else n for i, n in enumerate(sides)]
        return list(np.empty(shape, bool).reshape(kept).shape)
    if node.op_type == "Squeeze":
        axes = {n % len(shape) for n in sides} or {i for i, n in enumerate(shape) if n == 1}
        return [n for i, n in enumerate(shape) if i not in axes]
    return list(np.expand_dims(np.empty(shape, bool), tuple(sides)).shape)


def _sizes(writer: TensorWriter, node: onnx.NodeProto, total: int) -> list[int]:
    if len(node.input) > 1 and node.input[1]:
        return [int(n) for n in writer.integers(node.input[1])]
    return [total // len(node.output)] * len(node.output)


def _ranges(writer: TensorWriter, node: onnx.NodeProto, shape: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return start, end and step of a slice for each axis."""
    settings = [writer.integers(name).reshape(-1).tolist() for name in node.input[1:]]
    starts, ends = settings[:2]
    axes = settings[2] if len(settings) > 2 else list(range(len(starts)))
    steps = settings[3] if len(settings) > 3 else [1] * len(starts)
    ranges = [(0, n, 1) for n in shape]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 1:
            raise PmqError("slices that run backwards have no form in LiteRT's integers; choose another target, or another model")
        ranges[axis] = slice(start, end, step).indices(shape[axis])
    return ranges


def _cut(writer: TensorWriter, x: int, output: str, bits: int, ranges: Sequence[tuple[int, int, int]]) -> None:
    constants = [writer.b.constant(np.array(column, np.int32)) for column in zip(*ranges, strict=True)]
    y = writer.result(output, [len(range(*r)) for r in ranges], bits)
    writer.b.add(OPS.STRIDED_SLICE, [x, *constants], y, schema.StridedSliceOptionsT())
