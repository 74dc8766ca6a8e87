"""Biases of whole graphs, which are 32-bit integers at the scale of the products that they are added to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pmq.graph.operators import aten, packet
from pmq.graph.tensors import component_name, result_of, tap_of
from pmq.quant.simulator import Simulator
from pmq.quant.weights import QuantizedWeight

#: steps of a 16-bit grid in a step of the 8-bit grid of the same range, to which the input of a wider operator is converted
RATIO = 257


@torch.no_grad()
def round_biases(simulator: Simulator, weights: Mapping[str, QuantizedWeight]) -> None:
    """Round the biases of quantized layers and norms to the integers of a file, in place.

    Args:
        simulator: simulator of a whole graph, to which an assignment is applied.
        weights: the quantized weights, by component.
    """
    inventory = simulator.inventory
    for name, weight in weights.items():
        layer, source = simulator.layer(name), inventory.source_of(inventory[name].module)
        scale = weight.quantizer.parameters.get("scale")
        if layer.bias is not None and scale is not None and not simulator.current(source).is_fp32:
            _round(layer.bias, _scale(simulator, source) * scale.reshape(-1))
    model = simulator.model
    for node in model.program.graph.nodes:
        if packet(node) is not aten.layer_norm or len(node.args) < 4 or None in node.args[2:4]:
            continue
        bias = model.tensor(str(node.args[3].target))
        source, gain, result = (component_name(tap) for tap in (tap_of(node.args[0]), tap_of(node.args[2]), result_of(node)))
        if not isinstance(bias, nn.Parameter) or any(simulator.current(name).is_fp32 for name in (source, gain, result)):
            continue
        wider = simulator.current(result).bits > simulator.current(source).bits
        _round(bias, _scale(simulator, source) * _scale(simulator, gain) / (RATIO if wider else 1))


def _scale(simulator: Simulator, name: str) -> Tensor:
    return simulator.quantizer(simulator.inventory[name], simulator.current(name)).parameters["scale"]


def _round(bias: nn.Parameter, scale: Tensor) -> None:
    scale = scale.double()
    bias.data.copy_((bias.double() / scale).round() * scale)
