"""A layer as a runtime needs it: integers, scales, and what happens to its input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pmq.core.choice import FLOAT, Choice
from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.quant import Quantized
from pmq.quant.weights import QuantizedWeight, from_rows

Array = NDArray[Any]


@dataclass(frozen=True)
class DeployLayer:
    """A Linear, or a patch embedding whose patches do not overlap.

    Attributes:
        name: of the module.
        weight: how the weight is stored; ``source``: what the input is rounded to.
        value: of the weight ``(O, I)``, dequantized; ``(O, C, H, W)`` of a patch embedding.
        codes: its integers ``(O, I)`` around zero, if it has any.
        scales: ``(O, G)``, one for each group of inputs.
        bias: ``(O,)``.
        grid: scale and zero point of the input's 8-bit integers.
        image: ``(C, H, W)`` of a patch embedding's input.
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

    def plain(self) -> DeployLayer:
        """The same in FP32."""
        return replace(self, weight=FLOAT, source=FLOAT, codes=None, scales=None, grid=None)

    @property
    def patch(self) -> tuple[int, int] | None:
        """Height and width of a patch; nothing for a Linear."""
        return (int(self.value.shape[2]), int(self.value.shape[3])) if self.value.ndim == 4 else None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return int(self.value.shape[0]), int(np.prod(self.value.shape[1:]))


def deploy_layers(
    model: nn.Module, inventory: Inventory, quantized: Quantized, weights: dict[str, QuantizedWeight]
) -> list[DeployLayer]:
    """Describe every layer of a model that was restored from ``quantized`` and whose quantized weights are ``weights``.

    Raises:
        PmqError: a layer is something that no runtime here has a kernel for.
    """
    modules = {c.module: model.get_submodule(c.module) for c in inventory if c.slot == "weight"}
    layers = [_layer(name, module, quantized, weights.get(f"{name}.weight")) for name, module in modules.items()]
    images = {c.module: c.shape for c in inventory if c.slot == "input" and isinstance(modules[c.module], nn.Conv2d)}
    return [replace(layer, image=images.get(layer.name, ())) for layer in layers]


def _layer(name: str, module: Any, quantized: Quantized, weight: QuantizedWeight | None) -> DeployLayer:
    choice = quantized.assignment[f"{name}.weight"]
    source = quantized.assignment.get(f"{name}.input", FLOAT)
    if isinstance(module, nn.Conv2d) and not is_patch_embedding(module):
        raise PmqError(f"layer {name!r} is a convolution whose patches overlap, which cannot be deployed")
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
    return DeployLayer(name, choice, source, module.weight.detach().numpy(), codes, scales, bias, grid)


def nibbles(codes: Array) -> NDArray[np.uint8]:
    """Pack codes below 16 ``(..., n)`` two a byte, the first in the low half; an odd last side ends with a zero."""
    even = np.pad(codes.astype(np.uint8), [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return cast(NDArray[np.uint8], even[..., 0::2] | (even[..., 1::2] << 4))


def is_patch_embedding(module: nn.Conv2d) -> bool:
    """Whether a convolution is a product with the patches of its input."""
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding in (0, (0, 0))
    return plain and module.kernel_size == module.stride and isinstance(module.weight, torch.Tensor)
