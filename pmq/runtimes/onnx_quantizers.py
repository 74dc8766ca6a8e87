"""Quantizers of activations as ONNX operators: a function for each, and the reading of their bits from a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from pmq.quant.quantizers.codebook import CELLS
from pmq.quant.quantizers.relative import LEAST, MIDDLE

if TYPE_CHECKING:
    from pmq.runtimes.onnx_builder import NodeBuilder
    from pmq.runtimes.operand import DeployOperand

#: smallest scaled value of which a root is taken, whose root still rounds to zero
_ZERO = 1e-6
#: operators that only move values
MOVING = ("Reshape", "Transpose")
#: operators that look values up in a table
LOOK_UPS = ("Gather", "GatherElements")


def codes(b: NodeBuilder, operand: DeployOperand, x: str) -> tuple[str, str, str]:
    """Add the integers of an operand on its 8-bit grid; return their name and those of scale and zero point."""
    prefix, per_head = _prefix(b, operand), len(operand.parameters["scale"]) > 1
    scale, zero = operand.parameters["scale"], operand.parameters["zero_point"].astype(np.uint8)
    names = [b.constant(f"{prefix}scale", scale if per_head else scale[0])]
    names.append(b.constant(f"{prefix}zero", zero if per_head else zero[0]))
    if operand.choice.quantizer == "codebook":
        return _looked_up(b, operand, x, operand.parameters["levels"].astype(np.uint8)), names[0], names[1]
    axis: dict[str, Any] = {"axis": -3} if per_head else {}
    y = b.node("QuantizeLinear", [x, *names], f"{prefix}rounded", **axis)
    if operand.choice.bits < 8:
        ends = [b.constant(f"{prefix}{end}", np.array(value, np.uint8)) for end, value in (("low", 0), ("high", operand.top))]
        y = b.node("Clip", [y, *ends], f"{prefix}quantized")
    return y, names[0], names[1]


def _looked_up(b: NodeBuilder, operand: DeployOperand, x: str, levels: NDArray[Any]) -> str:
    """Add the look-up of one of the ``levels`` for the cell that each value lies in; return the name of the result.

    The file holds the levels and where their cells begin; a runtime computes the table of all cells from them as it loads it.
    """
    prefix = _prefix(b, operand)
    lowest, cells_per_unit, starts = operand.cells
    bounds = [b.shared(f"int32 {n}", np.array(n, np.int32)) for n in (0, CELLS, 1)]
    cells = b.node("Range", bounds, f"{prefix}range")
    numbers = b.node("Reshape", [cells, b.shared("sides [-1, 1]", np.array([-1, 1]))], f"{prefix}numbers")
    begun = b.node("GreaterOrEqual", [numbers, b.constant(f"{prefix}starts", starts[None])], f"{prefix}begun")
    floats = b.node("Cast", [begun], f"{prefix}counted", to=TensorProto.FLOAT)
    count = b.node("ReduceSum", [floats, b.shared("axis 1", np.array([1]))], f"{prefix}count", keepdims=0)
    index = b.node("Cast", [count], f"{prefix}level", to=TensorProto.INT32)
    table = b.node("Gather", [b.constant(f"{prefix}levels", levels), index], f"{prefix}table")
    x = b.node("Sub", [x, b.constant(f"{prefix}lowest", np.array(lowest, np.float32))], f"{prefix}shifted")
    x = b.node("Mul", [x, b.constant(f"{prefix}cells", np.array(cells_per_unit, np.float32))], f"{prefix}scaled")
    ends = [b.shared(f"cell {n}", np.array(n, np.float32)) for n in (0, CELLS - 1)]
    cell = b.node("Cast", [b.node("Clip", [x, *ends], f"{prefix}clipped")], f"{prefix}cell", to=TensorProto.INT32)
    return b.looked_up(table, cell, f"{prefix}quantized")


def values(b: NodeBuilder, operand: DeployOperand, x: str, y: str | None = None) -> str:
    """Add the quantized values of an operand, in FP32; return their name, which is ``y`` if that is given."""
    prefix = _prefix(b, operand)
    if operand.on_grid:
        integers, scale, zero = codes(b, operand, x)
        axis: dict[str, Any] = {"axis": -3} if len(operand.parameters["scale"]) > 1 else {}
        return b.node("DequantizeLinear", [integers, scale, zero], f"{prefix}operand", y, **axis)
    return {"power": _power, "log": _log, "relative": _relative}[operand.choice.quantizer](b, operand, x, y)


def _power(b: NodeBuilder, operand: DeployOperand, x: str, y: str | None) -> str:
    """Add ``low + width * k**root`` with ``k`` the rounded root of the scaled value."""
    prefix, root = _prefix(b, operand), int(operand.parameters["root"][0])
    low, high = operand.parameters["low"], operand.parameters["high"]
    steps = np.float32(operand.top) ** root
    width = np.where(high - low > np.finfo(np.float32).tiny, high - low, np.float32(1))
    x = b.node("Sub", [x, low_name := b.constant(f"{prefix}low", _by_head(low))], f"{prefix}shifted")
    x = b.node("Mul", [x, b.constant(f"{prefix}inverse", _by_head(steps / width))], f"{prefix}scaled")
    ends = [b.constant(f"{prefix}{end}", np.array(v, np.float32)) for end, v in (("least", _ZERO), ("most", steps))]
    x = _times(b, "Sqrt", b.node("Clip", [x, *ends], f"{prefix}clipped"), root, prefix)
    x = _times(b, "Mul", b.node("Round", [x], f"{prefix}rounded"), root, prefix)
    x = b.node("Mul", [x, b.constant(f"{prefix}width", _by_head(width / steps))], f"{prefix}widened")
    return b.node("Add", [x, low_name], f"{prefix}operand", y)


def _log(b: NodeBuilder, operand: DeployOperand, x: str, y: str | None) -> str:
    """Add ``scale * 2**(-k / root)`` with ``k`` the rounded logarithm, and zero where ``k`` exceeds the last level."""
    prefix, root, scale = _prefix(b, operand), int(operand.parameters["root"][0]), operand.parameters["scale"]
    last = operand.top - 1
    ends = [2.0 ** (-(last + 1) / root), 1.0]
    x = b.node("Mul", [x, b.constant(f"{prefix}inverse", _by_head(1 / scale))], f"{prefix}scaled")
    limits = [b.constant(f"{prefix}{n}", np.array(v, np.float32)) for n, v in zip(("least", "most"), ends, strict=True)]
    x = b.node("Log", [b.node("Clip", [x, *limits], f"{prefix}clipped")], f"{prefix}log")
    octaves = b.constant(f"{prefix}octaves", np.array(root / math.log(2), np.float32))
    x = b.node("Round", [b.node("Mul", [x, octaves], f"{prefix}steps")], f"{prefix}rounded")
    x = b.node("Exp", [b.node("Div", [x, octaves], f"{prefix}halvings")], f"{prefix}level")
    x = b.node("ThresholdedRelu", [x], f"{prefix}cut", alpha=2.0 ** (-(last + 0.5) / root))
    return b.node("Mul", [x, b.constant(f"{prefix}scale", _by_head(scale))], f"{prefix}operand", y)


def _relative(b: NodeBuilder, operand: DeployOperand, x: str, y: str | None) -> str:
    """Add the nearest level, which is a share of the token's largest magnitude, times that magnitude."""
    middle = np.float32(MIDDLE)
    share, largest = relative_levels(b, operand, x, (operand.parameters["levels"] - middle) / middle)
    return b.node("Mul", [share, largest], f"{_prefix(b, operand)}operand", y)


def relative_levels(b: NodeBuilder, operand: DeployOperand, x: str, levels: NDArray[Any]) -> tuple[str, str]:
    """Add the one of ``levels`` for the share that each value is of its token's largest magnitude, and that magnitude."""
    prefix = _prefix(b, operand)
    magnitude = b.node("Abs", [x], f"{prefix}magnitude")
    largest = b.node("ReduceMax", [magnitude, b.shared("axis -1", np.array([-1]))], f"{prefix}most", keepdims=1)
    largest = b.node("Max", [largest, b.shared("least magnitude", np.array(LEAST, np.float32))], f"{prefix}largest")
    return _looked_up(b, operand, b.node("Div", [x, largest], f"{prefix}share"), levels), largest


def _times(b: NodeBuilder, op: str, x: str, root: int, prefix: str) -> str:
    """Add an operator once for root 2 and twice for root 4: square roots, or squares."""
    for i in range(root // 2):
        x = b.node(op, [x, x] if op == "Mul" else [x], f"{prefix}{op}{i}")
    return x


def _prefix(b: NodeBuilder, operand: DeployOperand) -> str:
    """Return what an operand's names begin with after the name of its part: the slot, where the part is a layer."""
    return "" if b.name == operand.name else "input."


def _by_head(parameter: Any) -> Any:
    """Return a parameter ``(H,)`` such that it broadcasts against values ``(..., H, T, D)``."""
    array = np.asarray(parameter, np.float32)
    return array[0] if array.size == 1 else array.reshape(-1, 1, 1)


def label(name: str, known: Mapping[str, Any], makers: Mapping[str, Any]) -> str:
    """Return the label of the choice with which a tensor is quantized, as read from the graph; ``fp32`` if it is not.

    Raises:
        LookupError: the operators are not those of this module.
    """
    node = _maker(name, makers, (*MOVING, "DequantizeLinear"))
    if node is None:
        return "fp32"
    scaled = _maker(node.input[0], makers, MOVING) if node.op_type == "Mul" else None
    if scaled is not None and scaled.op_type in LOOK_UPS:
        node = scaled
    if node.op_type == "QuantizeLinear":
        return "8"
    if node.op_type == "Clip" and makers.get(node.input[0], node).op_type == "QuantizeLinear":
        return str(_bits(1 + int(_number(known[node.input[2]]))))
    if node.op_type in LOOK_UPS and (table := makers.get(node.input[0])) is not None and table.op_type == "Gather":
        return f"{_bits(known[table.input[0]].dims[0])}-{'relative' if _is_share(node, makers) else 'codebook'}"
    if node.op_type == "Mul" and makers.get(node.input[0], node).op_type == "ThresholdedRelu":
        return _log_label(makers[node.input[0]], known, makers)
    if node.op_type == "Add" and makers.get(node.input[0], node).op_type == "Mul":
        return _power_label(makers[node.input[0]], known, makers)
    return "fp32"


def _maker(name: str, makers: Mapping[str, Any], passed: tuple[str, ...]) -> Any:
    """Return the node that computes a tensor before operators that are ``passed`` by; None if there is none."""
    node = makers.get(name)
    while node is not None and node.op_type in passed:
        node = makers.get(node.input[0])
    return node


def _is_share(look_up: Any, makers: Mapping[str, Any]) -> bool:
    """Return whether the looked-up values are shares of a token's largest magnitude."""
    node = _maker(look_up.input[1], makers, (*MOVING, "Cast", "Clip", "Mul", "Sub"))
    return node is not None and node.op_type == "Div" and getattr(makers.get(node.input[1]), "op_type", "") == "Max"


def _log_label(threshold: Any, known: Mapping[str, Any], makers: Mapping[str, Any]) -> str:
    halvings = makers[makers[threshold.input[0]].input[0]]
    root = round(_number(known[halvings.input[1]]) * math.log(2))
    return f"{_bits(round(-math.log2(threshold.attribute[0].f) * root - 0.5) + 2)}-log"


def _power_label(node: Any, known: Mapping[str, Any], makers: Mapping[str, Any]) -> str:
    """Return the label of power levels, given the node that scales them; ``fp32`` if it belongs to something else."""
    node, root = makers.get(node.input[0]), 1
    while node is not None and node.op_type == "Mul" and node.input[0] == node.input[1]:
        node, root = makers.get(node.input[0]), 2 * root
    if node is None or node.op_type != "Round":
        return "fp32"
    while node.op_type in ("Round", "Sqrt"):
        node = makers[node.input[0]]
    return f"{_bits(1 + round(_number(known[node.input[2]]) ** (1 / root)))}-power"


def _bits(levels: int) -> int:
    if levels < 1 or levels & (levels - 1):
        raise LookupError(levels)
    return levels.bit_length() - 1


def _number(tensor: Any) -> float:
    return float(numpy_helper.to_array(tensor).reshape(-1)[0])
