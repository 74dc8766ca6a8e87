"""ONNX graph in FP32 whose tensors have the names of components, for formats that describe the tensors of a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import NodeProto, helper

from pmq.exports.tensor import ExportModel
from pmq.runtimes.onnx_builder import OPERAND
from pmq.runtimes.onnx_parts import PartBuilder
from pmq.runtimes.operand import DeployOperand, mark_operands
from pmq.runtimes.session import INPUT, OUTPUT
from pmq.runtimes.skeleton import Part, fill, take_skeleton

if TYPE_CHECKING:
    from pmq.runtimes.layer import DeployLayer


@dataclass(frozen=True)
class NamedGraph:
    """ONNX graph with the tensors of components.

    Attributes:
        proto: the model, as ``onnx.ModelProto``.
        tensors: names of the tensors that hold a component; several where a layer is called several times.
    """

    proto: Any
    tensors: dict[str, list[str]] = field(default_factory=dict)


def named_graph(model: ExportModel, activations: Collection[str]) -> NamedGraph:
    """Return the model in FP32 with a tensor for each of ``activations``, and weights named as in the state dict.

    Weights of linear layers have shape ``(I, O)``, those of convolutions ``(O, I, ...)``. A tensor with further readers is copied
    by a node ``Identity``, so that only the component's own readers see it quantized.
    """
    captured = model.model
    operands = [DeployOperand(name, model.tensors[name].choice, {}) for name in activations if not name.endswith(".input")]
    mark_operands(captured, operands)
    image = torch.zeros(1, *model.info.data_config["input_size"])
    try:
        skeleton = take_skeleton(captured, list(model.layers), image)
    finally:
        for module in captured.tapped.values():
            module.untapped()

    def emit(layer: DeployLayer, x: str, y: str) -> Part:
        b = PartBuilder(layer.name)
        name = f"{layer.name}.input"
        if name in activations:
            b.part.nodes.append(helper.make_node("Identity", [x], [name], f"{name}/{OPERAND}"))
            x = name
        if layer.convolution is None:
            b.product(layer, x, b.constant("weight", layer.value.T.astype(np.float32)), y)
        else:
            b.convolution(layer, x, b.constant("weight", layer.value.astype(np.float32)), y)
        return b.part

    def emit_operand(operand: DeployOperand, x: str, y: str) -> Part:
        return Part([helper.make_node("Identity", [x], [y], f"{operand.name}/{OPERAND}")], [])

    return _named(fill(skeleton, list(model.layers.values()), operands, emit, emit_operand, short_names=False))


def _named(proto: Any) -> NamedGraph:
    """Name the tensor of each component after it, and remove the copies of tensors that nothing else reads."""
    graph, result = proto.graph, NamedGraph(proto)
    readers = Counter(name for node in graph.node for name in node.input)
    made = {name for node in graph.node for name in node.output}
    new: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        component, marker, suffix = node.name.partition(f"/{OPERAND}")
        if not marker:
            nodes.append(node)
            continue
        (source,), (target,) = node.input, node.output
        label = f"{component}{suffix}"
        if readers[source] == 1 and source == INPUT:
            new[target] = label = INPUT
        elif readers[source] == 1 and source in made and source != OUTPUT and source not in new.values() and source not in new:
            new[source] = new[target] = label
        else:
            new[target] = label
            nodes.append(node)
        result.tensors.setdefault(component, []).append(label)
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return result
