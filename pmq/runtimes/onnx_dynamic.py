"""Inputs of layers whose grid is found at run time, token by token, as ONNX operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, numpy_helper

from pmq.core.errors import PmqError
from pmq.quant.quantizers.relative import MIDDLE
from pmq.runtimes.onnx_builder import CONTRIB, PRODUCT
from pmq.runtimes.onnx_quantizers import relative_levels, values

if TYPE_CHECKING:
    from pmq.runtimes.layer import DeployLayer
    from pmq.runtimes.onnx_parts import PartBuilder

#: smallest step of a grid; values below it are zero for a network
_LEAST = np.float32(1e-37)


def product(b: PartBuilder, layer: DeployLayer, x: str, y: str) -> None:
    """Add a linear layer whose input has a grid for each token: from its least to its largest value, or levels that are relative.

    With the token's step ``s``, zero ``z`` and codes ``q``, and the weight's integers ``j`` of step ``t``, an output is
    ``s * (t * (q @ j.T) - z * t * sum(j)) + bias``. Relative levels have one zero, which the product subtracts.

    Raises:
        PmqError: the layer is a convolution, whose input has no tokens.
    """
    if layer.convolution is not None:
        raise PmqError(
            f"layer {layer.name!r}: the input of a convolution has no tokens with grids of their own; choose a static one"
        )
    if layer.codes is None or layer.scales is None or layer.scales.shape[1] > 1 or layer.zeros is not None:
        floats = values(b, layer.operand, x) if layer.operand is not None else _values(b, layer.source.bits, x)
        b.product(layer, floats, b.float_weight(layer), y)
        return
    scale = layer.scales[:, 0].astype(np.float32)
    operands = [b.integers(layer, layer.shape[::-1], layer.codes.T), b.shared("one", np.array(1, np.float32))]
    operands.append(b.constant("weight.scale", scale))
    if layer.operand is not None:
        x, largest = relative_levels(b, layer.operand, x, layer.operand.parameters["levels"].astype(np.uint8))
        step = b.node("Div", [largest, b.shared("middle", np.array(MIDDLE, np.float32))], "step")
        operands.append(b.shared("middle code", np.array(MIDDLE, np.uint8)))
    else:
        x, step, zero = _codes(b, layer.source.bits, x)
    total = b.node("MatMulIntegerToFloat", [x, *operands], PRODUCT, None, CONTRIB)
    if layer.operand is None:
        sums = b.constant("weight.sums", layer.codes.sum(1).astype(np.float32) * scale)
        total = b.node("Sub", [total, b.node("Mul", [zero, sums], "offset")], "centred")
    if layer.bias is None:
        b.node("Mul", [total, step], "scaled", y)
    else:
        b.node("Add", [b.node("Mul", [total, step], "scaled"), b.constant("bias", layer.bias)], "sum", y)


def _values(b: PartBuilder, bits: int, x: str) -> str:
    """Add the values of each token on its grid, in FP32; return their name."""
    x, step, zero = _codes(b, bits, x)
    floats = b.node("Sub", [b.node("Cast", [x], "integers", to=TensorProto.FLOAT), zero], "centred input")
    return b.node("Mul", [floats, step], "input")


def _codes(b: PartBuilder, bits: int, x: str) -> tuple[str, str, str]:
    """Add the codes of each token, uint8; return their name and those of the tokens' steps and zeros, ``(..., T, 1)``."""
    top = 2**bits - 1
    axis, nil = b.shared("axis -1", np.array([-1])), b.shared("nil", np.array(0, np.float32))
    low = b.node("Min", [b.node("ReduceMin", [x, axis], "least", keepdims=1), nil], "low")
    high = b.node("Max", [b.node("ReduceMax", [x, axis], "largest", keepdims=1), nil], "high")
    width = b.node("Div", [b.node("Sub", [high, low], "width"), b.shared(f"top {top}", np.array(top, np.float32))], "even step")
    step = b.node("Max", [width, b.shared("least step", np.array(_LEAST))], "step")
    zero = b.node("Round", [b.node("Neg", [b.node("Div", [low, step], "from zero")], "to zero")], "zero")
    moved = b.node("Add", [b.node("Div", [x, step], "steps"), zero], "moved")
    grid = [b.shared("one", np.array(1, np.float32)), b.shared("no zero", np.array(0, np.uint8))]
    y = b.node("QuantizeLinear", [moved, *grid], "codes")
    if bits < 8:
        y = b.node("Clip", [y, *(b.shared(f"code {n}", np.array(n, np.uint8)) for n in (0, top))], "clipped")
    return y, step, zero


def label(name: str, known: Mapping[str, Any], makers: Mapping[str, Any]) -> str | None:
    """Return the label of an input that is quantized token by token, as read from the graph; None if it is not."""
    node, bits = makers.get(name), 8
    while node is not None and node.op_type in ("Mul", "Sub", "Cast", "Clip"):
        if node.op_type == "Clip":
            bits = int(numpy_helper.to_array(known[node.input[2]])).bit_length()
        node = makers.get(node.input[0])
    moved = None if node is None or node.op_type != "QuantizeLinear" else makers.get(node.input[0])
    if moved is None or moved.op_type != "Add" or getattr(makers.get(moved.input[1]), "op_type", "") != "Round":
        return None
    return f"{bits}-dynamic"
