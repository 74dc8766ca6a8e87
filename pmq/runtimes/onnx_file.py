"""ONNX files, whoever wrote them: taken only if they are whole in themselves and as ONNX has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pmq.core.errors import PmqError, one_line
from pmq.core.files import quoted, read_bytes
from pmq.core.validation import shown
from pmq.runtimes.session import MOST

#: what ONNX calls the type of the integers that inputs of layers are quantized to
UINT8 = 2


def read_onnx(path: Path) -> Any:
    """Read an ONNX model.

    Raises:
        PmqError: the file is no such model, or not whole in itself, or breaks ONNX's own rules: runtimes, which are given it
            next, end the process over some of them.
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
            raise PmqError(f"{quoted(path)} has {foreign}, which pmq deploy does not write; deploy it anew")
        onnx.checker.check_model(model)
    except (DecodeError, ValidationError, UnicodeDecodeError) as error:
        raise PmqError(f"{quoted(path)} is no ONNX model: {one_line(error)}; deploy it anew") from None
    return model


def _foreign(model: Any) -> str:
    """What a model has that pmq deploy does not write: parts in other files, and parts that run in loops or branches."""
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
    if any(len(inputs) != 3 or types.get(inputs[2]) != UINT8 for inputs in quantizers):  # OpenVINO breaks over those of 4 bits
        return "inputs quantized to anything but 8 bits"
    return ""


def _of_sparse(tensors: Any) -> Iterator[Any]:
    for tensor in tensors:
        yield from (tensor.values, tensor.indices)
