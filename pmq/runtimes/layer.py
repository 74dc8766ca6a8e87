"""Layers in the form that runtimes need: integers, scales, and the quantization of the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pmq.core.choice import FLOAT, Choice
from pmq.core.component import Inventory
from pmq.graph import Layer
from pmq.quant import Quantized
from pmq.quant.quantizers.relative import MIDDLE
from pmq.quant.weights import QuantizedWeight, from_rows
from pmq.runtimes.operand import DeployOperand, operand_of

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
        codes: integers of the weight ``(O, N)`` with all axes but the first flattened, around zero if its grid is symmetric,
            else from 0 upwards; None if it has none.
        levels: ``(2**bits,)``, the ascending integers that the codes are among; None if all of ``bits`` bits are levels.
        scales: ``(O, G)``, one scale per group of inputs.
        zeros: ``(O, G)``, the integer of zero; None if the grid is symmetric.
        bias: ``(O,)``.
        operand: quantizer of the input; None in FP32, or if its grid is computed at run time.
        result: quantizer of the output, where every tensor has one.
        image: shape ``(C, H, W)`` of a convolution's input; empty where it does not matter, as patches are not rearranged.
        convolution: geometry of a convolution; None for a linear layer.
    """

    name: str
    weight: Choice
    source: Choice
    value: Array
    codes: Array | None = None
    levels: Array | None = None
    scales: Array | None = None
    zeros: Array | None = None
    bias: Array | None = None
    operand: DeployOperand | None = None
    image: tuple[int, ...] = ()
    convolution: Convolution | None = None
    result: DeployOperand | None = None

    def plain(self) -> DeployLayer:
        """Return the same layer in FP32."""
        return replace(
            self, weight=FLOAT, source=FLOAT, codes=None, levels=None, scales=None, zeros=None, operand=None, result=None
        )

    @property
    def by_integers(self) -> bool:
        """Whether the layer is a product of integers: both grids are even, and each output has one scale."""
        on_grid = self.operand is not None and self.operand.on_grid
        return on_grid and self.scales is not None and self.scales.shape[1] == 1

    @property
    def tile(self) -> tuple[int, int] | None:
        """Height and width of the patches of a convolution whose windows neither overlap nor leave gaps; None for others."""
        convolution = self.convolution
        if (
            convolution is None
            or not self.image
            or not convolution.plain
            or self.value.ndim != 4
            or self.value.shape[2:] != convolution.stride
        ):
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
    layers = [
        _layer(name, module, quantized, weights.get(f"{name}.weight"), inventory.source_of(name))
        for name, module in modules.items()
    ]
    images = {c.module: c.shape for c in inventory if c.slot == "input"}
    if inventory.whole:
        results = inventory.results
        return [replace(layer, result=operand_of(results[layer.name], quantized)) for layer in layers]
    return [layer if layer.convolution is None else replace(layer, image=images[layer.name]) for layer in layers]


def _layer(name: str, module: Any, quantized: Quantized, weight: QuantizedWeight | None, read: str) -> DeployLayer:
    choice = quantized.assignment[f"{name}.weight"]
    source = quantized.assignment.get(read, FLOAT)
    codes = levels = scales = zeros = None
    if weight is not None and "scale" in weight.quantizer.parameters:
        outputs, grid, integers = weight.shape[0], weight.quantizer.parameters, weight.integers()
        scales = _by_output(grid["scale"], outputs)
        if integers is None or not (choice.symmetric or "levels" in grid):
            integers, zeros = from_rows(weight.codes.int(), weight.shape), _by_output(grid["zero_point"], outputs)
        codes = integers.reshape(outputs, -1).numpy()
        levels = (grid["levels"].int() - MIDDLE).numpy() if "levels" in grid else None
    bias = None if module.bias is None else module.bias.detach().numpy()
    value, convolution = module.weight.detach().numpy(), Convolution.of(module)
    operand = operand_of(read, quantized)
    return DeployLayer(name, choice, source, value, codes, levels, scales, zeros, bias, operand, (), convolution)


def _by_output(parameter: Tensor, outputs: int) -> Array:
    """Return a parameter of a weight's grid as ``(O, G)``, which has one value or ``O * G``."""
    rows = parameter.reshape(outputs, -1) if parameter.numel() >= outputs else parameter.expand(outputs, 1)
    return rows.numpy()


def nibbles(codes: Array) -> NDArray[np.uint8]:
    """Pack codes below 16 ``(..., n)`` two per byte with the first in the low half; an odd last axis is padded with zero."""
    even = np.pad(codes.astype(np.uint8), [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return cast(NDArray[np.uint8], even[..., 0::2] | (even[..., 1::2] << 4))
