"""Reading of the bits of an integer graph from its file."""

from __future__ import annotations

from typing import Any

import onnx

from pmq.runtimes.onnx_builder import OPERAND, PRODUCT
from pmq.runtimes.qdq_grids import MOVES

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
BITS = {"UINT8": 8, "INT8": 8, "UINT4": 4, "INT4": 4, "UINT16": 16, "INT16": 16}


def read_bits(model: onnx.ModelProto) -> dict[str, str]:
    """Return the mode of each layer, and the bits of each tensor, determined from the types of the integers.

    Raises:
        LookupError: an operator reads or writes a tensor that is not quantized; its argument names it.
    """
    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    bits: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            name, _, leaf = node.name.rpartition("/")
            if leaf == OPERAND and node.op_type == QUANTIZE:
                bits[name] = str(_bits_of(known[node.input[2]]))
            continue
        _check_quantized(node, known, makers, readers)
        name, _, leaf = node.name.rpartition("/")
        if leaf == PRODUCT:
            source, weight = (makers[n] for n in node.input[:2])
            bits[name] = f"w{_bits_of(known[weight.input[0]])} x {_bits_of(known[source.input[2]])}"
    return bits


def _check_quantized(node: Any, known: dict[str, Any], makers: dict[str, Any], readers: dict[str, list[Any]]) -> None:
    """Raise unless a node reads and writes quantized tensors, except integers such as shapes."""
    tensors = node.input[:1] if node.op_type in MOVES or node.op_type == "ReduceMean" else node.input
    for name in tensors:
        if name and (name not in makers or makers[name].op_type != DEQUANTIZE):
            raise LookupError(f"input {name!r} of operator {node.op_type}")
    for name in node.output:
        if any(reader.op_type != QUANTIZE for reader in readers.get(name, [])) or name not in readers:
            raise LookupError(f"output {name!r} of operator {node.op_type}")


def _bits_of(tensor: Any) -> int:
    return BITS[onnx.TensorProto.DataType.Name(tensor.data_type)]
