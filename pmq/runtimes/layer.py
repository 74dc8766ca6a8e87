"""Layers in the form that runtimes need: integers, scales, and the quantization of the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pmq.core.choice import FLOAT, Choice
from pmq.core.component import Inventory
from pmq.graph import Layer
from pmq.quant import Quantized
from pmq.quant.weights import QuantizedWeight, from_rows

Array = NDArray[Any]


@dataclass(frozen=True)
class Convolution:
    """Geometry of a convolution: for each side the stride, the zero padding before and behind, and the dilation."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    @classmethod
    def of(cls, layer: Layer) -> Convolution | None:
        """Return the geometry of a layer; None for a linear layer."""
        if layer.kind == "linear":
            return None
        sides = layer.weight.ndim - 2
        if layer.transposed:
            padding, dilation = layer.sides(1, 0), layer.sides(4, 1)
            return cls(layer.sides(0, 1), tuple((p, p) for p in padding), dilation, layer.groups, True, layer.sides(2, 0))
        dilation = layer.sides(2, 1)
        setting = layer.settings[1] if len(layer.settings) > 1 else 0
        if isinstance(setting, str):
            total = [d * (k - 1) if setting == "same" else 0 for d, k in zip(dilation, layer.weight.shape[2:], strict=True)]
            padding_of = tuple((t // 2, t - t // 2) for t in total)
        else:
            padding_of = tuple((p, p) for p in layer.sides(1, 0))
        assert len(padding_of) == sides
        return cls(layer.sides(0, 1), padding_of, dilation, layer.groups)

    @property
    def plain(self) -> bool:
        """Whether the convolution has no padding, no dilation, a single group, and is not transposed."""
        simple = not any(map(any, self.padding)) and set(self.dilation) == {1}
        return simple and self.groups == 1 and not self.transposed


@dataclass(frozen=True)
class DeployLayer:
    """Linear layer or convolution as it is deployed.

    Attributes:
        name: name of the module.
        weight: choice of the weight; ``source`` is the choice of the input.
        value: dequantized weight, ``(O, I)`` or ``(O, I / groups, ...)``.
        codes: integers of the weight around zero, ``(O, N)`` with all axes but the first flattened; None if it has none.
        scales: ``(O, G)``, one scale per group of inputs.
        bias: ``(O,)``.
        grid: scale and zero point of the 8-bit integers of the input.
        image: shape ``(C, H, W)`` of a convolution's input.
        convolution: geometry of a convolution; None for a linear layer.
    """

    name: str
    weight: Choice
    source: Choice
    value: Array
    codes: Array | None = None
    scales: Array | None = None
    bias: Array | None = None
    grid: tuple[float, int] | None = None
    image: tuple[int, ...] = ()
    convolution: Convolution | None = None

    def plain(self) -> DeployLayer:
        """Return the same layer in FP32."""
        return replace(self, weight=FLOAT, source=FLOAT, codes=None, scales=None, grid=None)

    @property
    def tile(self) -> tuple[int, int] | None:
        """Height and width of the patches of a convolution whose windows neither overlap nor leave gaps; None for others."""
        convolution = self.convolution
        if convolution is None or not convolution.plain or self.value.ndim != 4 or self.value.shape[2:] != convolution.stride:
            return None
        return int(self.value.shape[2]), int(self.value.shape[3])

    @property
    def patch(self) -> tuple[int, int] | None:
        """The same as ``tile``; None also where a patch is a single position."""
        return None if self.tile == (1, 1) else self.tile

    @property
    def shape(self) -> tuple[int, int]:
        """Number of outputs, and number of inputs of each output."""
        return int(self.value.shape[0]), int(np.prod(self.value.shape[1:]))


def deploy_layers(
    model: nn.Module, inventory: Inventory, quantized: Quantized, weights: dict[str, QuantizedWeight]
) -> list[DeployLayer]:
    """Return every layer of a model that was restored from ``quantized``, with its quantized weights ``weights``."""
    modules = {c.module: model.get_submodule(c.module) for c in inventory if c.slot == "weight"}
    layers = [_layer(name, module, quantized, weights.get(f"{name}.weight")) for name, module in modules.items()]
    images = {c.module: c.shape for c in inventory if c.slot == "input"}
    return [layer if layer.convolution is None else replace(layer, image=images[layer.name]) for layer in layers]


def _layer(name: str, module: Any, quantized: Quantized, weight: QuantizedWeight | None) -> DeployLayer:
    choice = quantized.assignment[f"{name}.weight"]
    source = quantized.assignment.get(f"{name}.input", FLOAT)
    codes = scales = grid = None
    if weight is not None and "scale" in weight.quantizer.parameters:
        outputs, middle = weight.shape[0], weight.quantizer.parameters["zero_point"]
        codes = from_rows(weight.codes.int() - middle.int(), weight.shape).reshape(outputs, -1).numpy()
        scale = weight.quantizer.parameters["scale"]
        scales = scale.reshape(outputs, -1).numpy() if scale.numel() >= outputs else scale.expand(outputs, 1).numpy()
    parameters = quantized.parameters.get(f"{name}.input")
    if parameters is not None and set(parameters) == {"scale", "zero_point"}:
        grid = (parameters["scale"][0], int(parameters["zero_point"][0]))
    bias = None if module.bias is None else module.bias.detach().numpy()
    value, convolution = module.weight.detach().numpy(), Convolution.of(module)
    return DeployLayer(name, choice, source, value, codes, scales, bias, grid, (), convolution)


def nibbles(codes: Array) -> NDArray[np.uint8]:
    """Pack codes below 16 ``(..., n)`` two per byte with the first in the low half; an odd last axis is padded with zero."""
    even = np.pad(codes.astype(np.uint8), [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return cast(NDArray[np.uint8], even[..., 0::2] | (even[..., 1::2] << 4))
