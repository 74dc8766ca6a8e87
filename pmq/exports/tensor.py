"""What an export knows of a model: its quantized tensors, its layers and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pmq.core.allocation import ModelInfo
from pmq.core.choice import BY_TOKEN, Choice
from pmq.core.component import Component
from pmq.exports.grid import Grid
from pmq.runtimes.layer import DeployLayer

if TYPE_CHECKING:
    from torch import nn

    from pmq.graph import CapturedModel
    from pmq.quant import Quantized

#: bits of the even grid under free levels
FREE_BITS = 8


@dataclass(frozen=True)
class QuantizedTensor:
    """A quantized component of an allocation.

    Attributes:
        component: the component.
        choice: its choice, which is not FP32.
        grid: its grid; None if its levels are not even, or found at run time.
        around: even grid of 8 bits that has all free levels of a weight; None for other tensors.
        ends: its lowest and highest level, over all heads; None for a weight, and where they are found at run time.
    """

    component: Component
    choice: Choice
    grid: Grid | None
    ends: tuple[float, float] | None = None
    around: Grid | None = None

    @property
    def is_weight(self) -> bool:
        """Whether it is a weight."""
        return self.component.slot == "weight"


@dataclass(frozen=True)
class ExportModel:
    """A model whose weights have the values of an allocation, and its quantized tensors.

    Attributes:
        info: name and preprocessing.
        module: the model as a module with quantized weights; None if the allocation prunes it, or if the weights that the recipe
            transformed do not fit into it.
        model: the captured model, with the same weights.
        layers: its layers, by name.
        tensors: its quantized components, by name.
    """

    info: ModelInfo
    module: nn.Module | None
    model: CapturedModel
    layers: Mapping[str, DeployLayer]
    tensors: Mapping[str, QuantizedTensor]

    @property
    def stored_grids(self) -> dict[str, Grid]:
        """Grids of the tensors that have one, by name."""
        return {name: tensor.grid for name, tensor in self.tensors.items() if tensor.grid is not None}


def quantized_tensors(
    components: Mapping[str, Component], quantized: Quantized, layers: Mapping[str, DeployLayer]
) -> dict[str, QuantizedTensor]:
    """Return the quantized components by name, with the grids that they have."""
    tensors = {}
    for name, component in components.items():
        choice = quantized.assignment[name]
        if choice.is_fp32:
            continue
        if component.slot == "weight":
            layer = layers[component.module]
            grid, even = _weight_grid(layer), layer.levels is None
            tensors[name] = QuantizedTensor(component, choice, grid if even else None, around=None if even else grid)
        else:
            tensors[name] = _activation(component, choice, quantized.parameters.get(name))
    return tensors


def _weight_grid(layer: DeployLayer) -> Grid | None:
    if layer.scales is None:
        return None
    bits = int(layer.weight.bits) if layer.levels is None else FREE_BITS
    scale, middle = layer.scales.astype(np.float64), 2.0 ** (bits - 1)
    zero_point = np.full_like(scale, middle) if layer.zeros is None else layer.zeros.astype(np.float64)
    return Grid(bits, scale, zero_point, layer.zeros is None)


def _activation(component: Component, choice: Choice, parameters: Mapping[str, list[float]] | None) -> QuantizedTensor:
    from torch import tensor

    from pmq.quant.quantizers import QUANTIZERS

    if not parameters or choice.quantizer in BY_TOKEN:  # floats, and grids found at run time
        return QuantizedTensor(component, choice, None)
    quantizer = QUANTIZERS[choice.quantizer]({key: tensor(value) for key, value in parameters.items()}, choice.bits)
    low, high = (end.double() for end in quantizer.ends)
    grid = None
    if choice.quantizer == "affine":
        middle = 2.0 ** (choice.bits - 1)
        scale, zero_point = (np.array(parameters[key], np.float64) for key in ("scale", "zero_point"))
        grid = Grid(int(choice.bits), scale, zero_point, choice.symmetric and bool((zero_point == middle).all()))
    return QuantizedTensor(component, choice, grid, (float(low.min()), float(high.max())))
