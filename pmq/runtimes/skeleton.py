"""ONNX graphs with placeholders of layers: exported once, then filled with layers for each allocation."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError, one_line
from pmq.runtimes.layer import DeployLayer
from pmq.runtimes.marker import Marker, marked
from pmq.runtimes.operand import DOMAIN, OPERAND, DeployOperand
from pmq.runtimes.session import INPUT, OUTPUT, layer_output

#: name of the placeholder node of a layer
LAYER = "Layer"
#: ONNX opset: the first with blocked scales and 4-bit integers
OPSET = 21
#: version of ONNX's file format that belongs to this opset
IR_VERSION = 10

#: maximum number of values of constants that are folded at export
FOLDED = 4096


@dataclass
class Part:
    """Computation of one layer: nodes from tensor ``x`` to tensor ``y``, and their constants."""

    nodes: list[onnx.NodeProto]
    constants: list[onnx.TensorProto]


#: functions that return a part for a layer, or for an operand, and the names of its input and output
Emit = Callable[[DeployLayer, str, str], Part]
EmitOperand = Callable[[DeployOperand, str, str], Part]


class _Symbol(Marker):
    """Placeholder that leaves a node ``pmq::Layer`` in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a symbolic tensor of the shape of the layer's output."""
        shape = self.shape(x)
        attributes: dict[str, Any] = {"layer": self.name}
        if all(isinstance(side, int) for side in shape):
            attributes["shape"] = list(shape)
        return torch.onnx.ops.symbolic(f"{DOMAIN}::{LAYER}", (x,), attributes, dtype=torch.float32, shape=shape, version=1)


def take_skeleton(model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> onnx.ModelProto:
    """Export ``model``, which is not modified, with a node ``pmq::Layer`` in place of each of ``layers``.

    Args:
        model: the model in evaluation mode, on the CPU.
        layers: names of linear layers and convolutions.
        image: example input ``(B, C, H, W)``; B is the batch size of the graph, unless that is dynamic.
        dynamic_batch: whether the batch size is dynamic.

    Raises:
        PmqError: torch's ONNX exporter fails on this model.
    """
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                marked(model, layers, _Symbol),
                (image,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                verbose=False,
                optimize=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise PmqError(f"torch's ONNX exporter cannot export this model: {_cause(error)}; simulate it instead") from None
    assert program is not None
    # The runtime folds larger constants while it loads the file: stored, they would be repeated for each layer.
    onnxscript.optimizer.optimize(program.model, output_size_limit=FOLDED)
    return _slim(program.model_proto)


def _cause(error: BaseException) -> str:
    """Return the text of the first exception in a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def single(layer: DeployLayer, shape: tuple[int, ...], quantized: bool = False) -> onnx.ModelProto:
    """Return a graph that consists of the placeholder of one layer, whose input has ``shape``.

    With ``quantized``, the placeholder of the input's operand precedes it, and that of its result follows.
    """
    attributes = {"layer": layer.name} | ({"shape": [*shape[:-1], layer.shape[0]]} if layer.convolution is None else {})
    model = _of_one_node(LAYER, attributes, layer.name, shape)
    if quantized and layer.operand is not None:
        operand = onnx.helper.make_node(OPERAND, [INPUT], ["quantized"], domain=DOMAIN, operand=layer.operand.name)
        model.graph.node[0].input[0] = "quantized"
        model.graph.node.insert(0, operand)
        if layer.result is not None:
            model.graph.node[1].output[0] = "product"
            result = onnx.helper.make_node(OPERAND, ["product"], [OUTPUT], domain=DOMAIN, operand=layer.result.name)
            model.graph.node.append(result)
    return model


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's records of each node's origin, and long names: a quarter of a small model's file."""
    graph = model.graph
    del graph.value_info[:]
    short = {name: name for name in ("", INPUT, OUTPUT, *(tensor.name for tensor in graph.initializer))}
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = node.name = ""
        for names in (node.input, node.output):
            names[:] = [short.setdefault(name, f"t{len(short)}") for name in names]
    return model


def single_operand(operand: DeployOperand, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return a graph that consists of the placeholder of one operand, whose input has ``shape``."""
    return _of_one_node(OPERAND, {"operand": operand.name}, operand.name, shape)


def _of_one_node(kind: str, attributes: dict[str, Any], name: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    float32, helper = onnx.TensorProto.FLOAT, onnx.helper
    graph = helper.make_graph(
        [helper.make_node(kind, [INPUT], [OUTPUT], name, domain=DOMAIN, **attributes)],
        name,
        [helper.make_tensor_value_info(INPUT, float32, shape)],
        [helper.make_tensor_value_info(OUTPUT, float32, [None] * len(shape))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    return model


def fill(
    skeleton: onnx.ModelProto,
    layers: list[DeployLayer],
    operands: list[DeployOperand],
    emit: Emit,
    emit_operand: EmitOperand,
    short_names: bool = True,
) -> onnx.ModelProto:
    """Return a copy of the skeleton with each placeholder replaced by the nodes for its layer or operand.

    The placeholder of an operand that is not among ``operands`` is replaced by nothing: it stays in FP32. Without ``short_names``
    the tensors of parts keep the names that ``emit`` gives them.
    """
    model = onnx.ModelProto()
    model.CopyFrom(skeleton)
    named = {layer.name: layer for layer in layers}
    quantized = {operand.name: operand for operand in operands}
    nodes: list[onnx.NodeProto] = []
    outputs = dict[str, str]()
    held, calls = {tensor.name for tensor in model.graph.initializer}, Counter[str]()
    for node in model.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        name = onnx.helper.get_node_attr_value(node, node.op_type.lower()).decode()
        if node.op_type == LAYER:
            part = emit(named[name], node.input[0], node.output[0])
        elif name in quantized:
            part = emit_operand(quantized[name], node.input[0], node.output[0])
        else:
            part = Part([onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]])], [])
        # A layer that is called several times shares its constants; the tensors of each further call need other names.
        model.graph.initializer.extend(constant for constant in part.constants if constant.name not in held)
        held |= {constant.name for constant in part.constants}
        calls[name] += 1
        if node.op_type == LAYER and node.output[0] != OUTPUT:
            outputs[node.output[0]] = layer_output(name, calls[name])
        if calls[name] > 1:
            _rename(part.nodes, {node.input[0], node.output[0], *held}, f":{calls[name]}")
        nodes += part.nodes
    if short_names:
        _shorten(model.graph, nodes, outputs)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return _with_domains(model)


def _rename(nodes: list[onnx.NodeProto], unchanged: set[str], suffix: str) -> None:
    """Append a suffix to the names of nodes and of all tensors except those in ``unchanged``."""
    for node in nodes:
        node.name += suffix if node.name else ""
        for names in (node.input, node.output):
            names[:] = [name if not name or name in unchanged else name + suffix for name in names]


def _shorten(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], outputs: dict[str, str]) -> None:
    """Shorten the names of all tensors except weights, because long ones would be a large part of a small model's file.

    Outputs of layers get the names that ``outputs`` states.
    """
    weights = {tensor.name for tensor in graph.initializer if tensor.name.endswith(".weight")}
    held = {"", *weights, *(port.name for port in (*graph.input, *graph.output))}
    short = dict(outputs)
    for tensor in graph.initializer:
        if tensor.name not in held:
            tensor.name = short.setdefault(tensor.name, f"c{len(short)}")
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [name if name in held else short.setdefault(name, f"v{len(short)}") for name in names]


def _with_domains(model: onnx.ModelProto) -> onnx.ModelProto:
    used = {node.domain for node in model.graph.node}
    imports = [o for o in model.opset_import if o.domain != DOMAIN]
    imports += [onnx.helper.make_opsetid(d, 1) for d in sorted(used) if d not in {o.domain for o in imports}]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    model.producer_name = "pmq"
    return model
