"""Reading of the bits of a full-integer LiteRT model from its tensors."""

from __future__ import annotations

from typing import Any

from pmq.runtimes.flatbuffer import OPS, TYPES, Graph

BITS = {TYPES.INT4: 4, TYPES.INT8: 8, TYPES.INT16: 16}
#: types of tensors of operators: of codes, biases, and of axes, shapes and indices
INTEGERS = (*BITS, TYPES.INT32, TYPES.INT64)
#: operators that only convert, which alone may read or write the model's floats
CONVERTS = (OPS.QUANTIZE, OPS.DEQUANTIZE)
LAYERS = (OPS.FULLY_CONNECTED, OPS.CONV_2D)


def read_bits(model: Any) -> dict[str, str]:
    """Return the mode of each layer, and the bits of each tensor, determined from the types of the tensors.

    Raises:
        LookupError: an operator reads or writes a tensor that is no integer; its argument names it.
    """
    graph, b = model.subgraphs[0], Graph(model)
    borders = {*(int(i) for i in graph.inputs), *(int(i) for i in graph.outputs)}
    bits: dict[str, str] = {}
    for place, operator in enumerate(graph.operators):
        code = b.code(operator)
        for index in (int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0):
            tensor = graph.tensors[index]
            if tensor.type not in INTEGERS and not (code in CONVERTS and index in borders):
                raise LookupError(f"tensor {index} of operator {place}")
            name = tensor.name.decode()
            if name.endswith(".tensor"):
                bits[name] = str(BITS[tensor.type])
        if code in LAYERS:
            x, weight = (graph.tensors[int(i)] for i in operator.inputs[:2])
            bits[weight.name.decode().removesuffix(".weight")] = f"w{BITS[weight.type]} x {BITS[x.type]}"
    return bits
