"""A model's graph without its layers: exported once, then filled in as often as there are ways to compute them."""

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

#: domain and name of the node that stands for a layer
DOMAIN, LAYER = "pmq", "Layer"
INPUT, OUTPUT = "image", "output"
#: of ONNX: the first with blocked scales and 4-bit integers
OPSET = 21
#: of ONNX's file format that goes with it
IR_VERSION = 10

#: values of a constant that is computed when a file is written
FOLDED = 4096


@dataclass
class Part:
    """What computes one layer: nodes that lead from tensor ``x`` to tensor ``y``, and their constants."""

    nodes: list[onnx.NodeProto]
    constants: list[onnx.TensorProto]


#: makes a part, given the layer and the names of its input and output
Emit = Callable[[DeployLayer, str, str], Part]


class _Symbol(Marker):
    """Leaves a node of a domain of its own in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        """Stand for the layer's output: its shape and nothing else."""
        attributes: dict[str, Any] = {"layer": self.name}
        shape = self.shape(x)
        return torch.onnx.ops.symbolic(f"{DOMAIN}::{LAYER}", (x,), attributes, dtype=torch.float32, shape=shape, version=1)


def take_skeleton(model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> onnx.ModelProto:
    """Export ``model``, which is left as it is, with a node ``pmq::Layer`` in place of each of ``layers``.

    Args:
        model: in evaluation mode, on the CPU.
        layers: names of Linears and patch embeddings.
        image: ``(B, C, H, W)``; B is the batch size, unless it is ``dynamic``.
        dynamic_batch: leave it open.
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
            raise PmqError(f"torch's ONNX exporter cannot take this model: {_cause(error)}; simulate it instead") from None
    assert program is not None
    # Larger constants are left to be computed by the runtime while it loads the file: they would be there for each layer.
    onnxscript.optimizer.optimize(program.model, output_size_limit=FOLDED)
    return _slim(program.model_proto)


def _cause(error: BaseException) -> str:
    """What an exception began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def single(layer: DeployLayer, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A graph of nothing but one layer, whose input has ``shape``."""
    kind, helper = onnx.TensorProto.FLOAT, onnx.helper
    node = helper.make_node(LAYER, [INPUT], [OUTPUT], layer.name, domain=DOMAIN, layer=layer.name)
    graph = helper.make_graph(
        [node],
        layer.name,
        [helper.make_tensor_value_info(INPUT, kind, shape)],
        [helper.make_tensor_value_info(OUTPUT, kind, [None] * len(shape))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    return model


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what the exporter tells of where each node came from, and long names: a quarter of a small model's file."""
    graph = model.graph
    del graph.value_info[:]
    short = {name: name for name in ("", INPUT, OUTPUT, *(tensor.name for tensor in graph.initializer))}
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = node.name = ""
        for names in (node.input, node.output):
            names[:] = [short.setdefault(name, f"t{len(short)}") for name in names]
    return model


def fill(skeleton: onnx.ModelProto, layers: list[DeployLayer], emit: Emit) -> onnx.ModelProto:
    """Put what ``emit`` makes of each layer in the place of its node; the skeleton is left as it is."""
    model = onnx.ModelProto()
    model.CopyFrom(skeleton)
    named = {layer.name: layer for layer in layers}
    nodes: list[onnx.NodeProto] = []
    held, calls = {tensor.name for tensor in model.graph.initializer}, Counter[str]()
    for node in model.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        name = onnx.helper.get_node_attr_value(node, "layer").decode()
        part = emit(named[name], node.input[0], node.output[0])
        # A layer that is called in several places has its constants once, and what it computes there by other names.
        model.graph.initializer.extend(constant for constant in part.constants if constant.name not in held)
        held |= {constant.name for constant in part.constants}
        calls[name] += 1
        if calls[name] > 1:
            _rename(part.nodes, {node.input[0], node.output[0], *held}, f":{calls[name]}")
        nodes += part.nodes
    _shorten(model.graph, nodes)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return _with_domains(model)


def _rename(nodes: list[onnx.NodeProto], kept: set[str], suffix: str) -> None:
    """Put a suffix behind the names of nodes, and of all tensors but those ``kept``."""
    for node in nodes:
        node.name += suffix if node.name else ""
        for names in (node.input, node.output):
            names[:] = [name if not name or name in kept else name + suffix for name in names]


def _shorten(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Give all tensors but weights short names: those of layers would be a good part of a small model's file."""
    weights = {tensor.name for tensor in graph.initializer if tensor.name.endswith(".weight")}
    held = {"", *weights, *(port.name for port in (*graph.input, *graph.output))}
    short: dict[str, str] = {}
    for tensor in graph.initializer:
        if tensor.name not in held:
            tensor.name = short.setdefault(tensor.name, f"c{len(short)}")
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [name if name in held else short.setdefault(name, f"v{len(short)}") for name in names]


def _with_domains(model: onnx.ModelProto) -> onnx.ModelProto:
    used = {node.domain for node in model.graph.node}
    kept = [o for o in model.opset_import if o.domain != DOMAIN]
    kept += [onnx.helper.make_opsetid(d, 1) for d in sorted(used) if d not in {o.domain for o in kept}]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.producer_name = "pmq"
    return model
