"""Reader of ONNX files from any source; only self-contained and valid files are accepted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pmq.core.errors import PmqError, one_line
from pmq.core.files import quoted, read_bytes
from pmq.core.validation import shown
from pmq.runtimes.session import MOST

#: ONNX's codes of the integer types that activations are quantized to, of 8 and 16 bits
ACTIVATIONS = (2, 4)


def read_onnx(path: Path) -> Any:
    """Read an ONNX model.

    Raises:
        PmqError: the file is not an ONNX model, is not self-contained, or violates ONNX's rules; some of these files would
            crash the process in the runtime that loads them next.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx.checker import ValidationError
    except ImportError:
        raise PmqError(f"reading {quoted(path)} needs 'onnx', which is not installed; pip install 'pmq[onnx]'") from None
    content = read_bytes(path, "model file", "; pmq deploy writes one", MOST)
    try:
        model = onnx.load_model_from_string(content)
        foreign = _foreign(model)
        if foreign:
            raise PmqError(f"{quoted(path)} has {foreign}, which pmq deploy does not write; deploy the model again")
        onnx.checker.check_model(model)
    except (DecodeError, ValidationError, UnicodeDecodeError) as error:
        raise PmqError(f"{quoted(path)} is not an ONNX model: {one_line(error)}; deploy the model again") from None
    return model


def _foreign(model: Any) -> str:
    """Return what a model contains that pmq deploy never writes, such as external data, loops or branches; empty if nothing."""
    if model.functions or model.training_info:
        return "functions or a training graph"
    held = [*model.graph.initializer, *_of_sparse(model.graph.sparse_initializer)]
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.graphs or attribute.HasField("g"):
                return f"a graph within {shown(node.op_type)}"
            held += [attribute.t, *attribute.tensors, *_of_sparse([attribute.sparse_tensor, *attribute.sparse_tensors])]
    outside = [tensor.name for tensor in held if tensor.external_data or tensor.data_location]
    if outside:
        return f"{shown(outside[0])} in another file"
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    quantizers = [list(node.input) for node in model.graph.node if node.op_type == "QuantizeLinear"]
    # OpenVINO crashes on 4-bit inputs.
    if any(len(inputs) != 3 or types.get(inputs[2]) not in ACTIVATIONS for inputs in quantizers):
        return "inputs quantized to anything but 8 or 16 bits"
    return ""


def _of_sparse(tensors: Any) -> Iterator[Any]:
    for tensor in tensors:
        yield from (tensor.values, tensor.indices)
