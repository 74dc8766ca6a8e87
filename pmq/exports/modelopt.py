"""NVIDIA ModelOpt: a config of ``mtq.quantize`` as YAML, and the state dict with the ranges of its quantizers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pmq.core.files import write_text
from pmq.exports.base import register
from pmq.exports.fit import ALL_BITS, Fitted, Holds
from pmq.exports.grid import Grid
from pmq.exports.module import ModuleFormat

if TYPE_CHECKING:
    from torch import nn

    from pmq.exports.tensor import ExportModel, QuantizedTensor


@register
class ModelOpt(ModuleFormat):
    """Format that ``modelopt.torch.quantization.quantize`` reads."""

    name = "modelopt"
    tool = "NVIDIA ModelOpt"
    suffix = ".yaml"

    def holds_of_layer(self, model: ExportModel, tensor: QuantizedTensor, layer: nn.Module) -> Holds | str:
        """Return weights and inputs of linear layers and convolutions, which have quantizers of their own."""
        if tensor.is_weight:
            return Holds(ALL_BITS, ("tensor", "channel"), asymmetric=False)
        return Holds(ALL_BITS)

    def write(self, model: ExportModel, fitted: Fitted, path: Path) -> list[Path]:
        """Write the config, and the state dict of the model that it makes."""
        state: dict[str, NDArray[Any]] = {}
        entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
        for name, grid in fitted.grids.items():
            quantizer, is_weight = f"{name}_quantizer", model.tensors[name].is_weight
            per_channel = is_weight and grid.scale.size > 1
            entries.append({"quantizer_name": quantizer, "cfg": _attributes(grid, per_channel)})
            shape = (-1, *(1 for _ in model.tensors[name].component.shape[1:])) if per_channel else ()
            state[f"{quantizer}._amax"] = _amax(grid).astype(np.float32).reshape(shape)
            if not grid.symmetric:
                state[f"{quantizer}._bias_value"] = _middle(grid).astype(np.float32).reshape(1)
        text = yaml.safe_dump({"quant_cfg": entries, "algorithm": None}, sort_keys=False)
        return [write_text(path, text), self.write_weights(model, path, state)]


def _attributes(grid: Grid, per_channel: bool) -> dict[str, Any]:
    attributes = {"num_bits": grid.bits, "axis": 0 if per_channel else None, "narrow_range": False}
    return attributes if grid.symmetric else attributes | {"bias": {-1: None, "type": "static"}}


def _amax(grid: Grid) -> NDArray[np.float64]:
    """Return the value of the highest integer of a grid around zero, which is ModelOpt's form of a scale."""
    return grid.scale * (2 ** (grid.bits - 1) - 1)


def _middle(grid: Grid) -> NDArray[np.float64]:
    """Return the value of the middle integer of a grid, which ModelOpt subtracts before and adds after quantizing."""
    return (2 ** (grid.bits - 1) - grid.zero_point) * grid.scale
