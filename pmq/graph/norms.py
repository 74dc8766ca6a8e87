"""Folding of batch norms into the convolutions before them, which is exact in evaluation mode as both are linear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pmq.graph.constants import Constants
from pmq.graph.nodes import calls_of, drop_unread
from pmq.graph.operators import aten, packet
from pmq.graph.taps import Layer, Tapped


@torch.no_grad()
def fold_batch_norms(graph: fx.Graph, tensors: Mapping[str, Tensor], modules: Mapping[str, Tapped]) -> None:
    """Fold batch norms into the layers before them, in place, where a layer is called once and has no other reader."""
    constants = Constants(graph, tensors)
    calls = calls_of(graph)
    for node in list(graph.nodes):
        if packet(node) is not aten.batch_norm or node.args[5]:
            continue
        source = node.args[0]
        layer = modules.get(source.target) if source.op == "call_module" else None
        if not isinstance(layer, Layer) or len(source.users) != 1 or calls[source.target] != 1 or layer.kind == "linear":
            continue
        statistics: list[Any] = [None if part is None else constants.value(part).double() for part in node.args[1:5]]
        weight, bias, mean, variance = statistics
        gain = (variance + node.args[7]).rsqrt() * (1 if weight is None else weight)
        layer_bias = 0 if layer.bias is None else layer.bias.double()
        shift = (layer_bias - mean) * gain + (0 if bias is None else bias)
        by_output = gain.reshape(-1, *[1] * (layer.weight.ndim - 1))
        if layer.transposed:
            group = layer.weight.shape[1]
            by_output = gain.reshape(layer.groups, 1, group, *[1] * (layer.weight.ndim - 2))
            folded = layer.weight.double().unflatten(0, (layer.groups, -1)) * by_output
            folded = folded.flatten(0, 1)
        else:
            folded = layer.weight.double() * by_output
        layer.weight = nn.Parameter(folded.to(layer.weight.dtype))
        layer.bias = nn.Parameter(shift.to(layer.weight.dtype))
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    drop_unread(graph)
