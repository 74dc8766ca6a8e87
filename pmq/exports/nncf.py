"""NNCF: a compression config for a PyTorch model, and the state dict with the scales of its quantizers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pmq.core.files import write_text
from pmq.exports.base import register
from pmq.exports.fit import ALL_BITS, Fitted, Holds
from pmq.exports.grid import Grid
from pmq.exports.module import ModuleFormat

if TYPE_CHECKING:
    from torch import nn

    from pmq.exports.tensor import ExportModel, QuantizedTensor

#: places of the operands of an operator of torch: of a linear layer or a convolution, and of the fused attention function
PORTS = {"input": 0, "weight": 1, "q": 0, "k": 1, "v": 2}


@register
class Nncf(ModuleFormat):
    """Format that ``nncf.torch.load_from_config`` reads."""

    name = "nncf"
    tool = "NNCF"
    suffix = ".json"

    def holds(self, model: ExportModel, tensor: QuantizedTensor) -> Holds | str:
        """Return weights, inputs of layers, and the operands q, k and v of attention functions."""
        slot = tensor.component.slot
        if slot in ("q", "k", "v") and tensor.component.name in _fused(model):
            return Holds(ALL_BITS, ("tensor", "head"))
        if slot == "softmax" and tensor.component.name in _fused(model):
            return "softmax inside of an attention function"
        return super().holds(model, tensor)

    def holds_of_layer(self, model: ExportModel, tensor: QuantizedTensor, layer: nn.Module) -> Holds | str:
        """Return weights and inputs of linear layers and convolutions."""
        return Holds(ALL_BITS, ("tensor", "channel") if tensor.is_weight else ("tensor",))

    def write(self, model: ExportModel, fitted: Fitted, path: Path) -> list[Path]:
        """Write the config, and the state dict of the model that it makes."""
        state: dict[str, NDArray[Any]] = {}
        commands = []
        for name, grid in fitted.grids.items():
            shape = _shape(model.tensors[name], grid)
            kind, parameters = _parameters(grid, shape)
            hooks = [
                f"pre_hooks.{operator}__{PORTS[model.tensors[name].component.slot]}.0" for operator in _operators(model, name)
            ]
            commands.append(
                {
                    "hook_names_in_model": hooks,
                    "module_path": "nncf.torch.quantization.layers",
                    "module_cls_name": kind,
                    "module_config": _specification(grid, shape),
                }
            )
            state |= {f"__nncf_hooks.{hook}.{key}": value for hook in hooks for key, value in parameters.items()}
        config = {"compression_state": commands}
        return [write_text(path, json.dumps(config, indent=1) + "\n"), self.write_weights(model, path, state)]


def _fused(model: ExportModel) -> dict[str, str]:
    """Return the operators of fused attention functions by the components of their operands."""
    from pmq.graph import Attention, component_of

    names: dict[str, str] = {}
    calls: dict[str, int] = {}
    for path, module in model.model.tapped.items():
        if isinstance(module, Attention):
            owner = path.rpartition(".")[0].replace(".", "/")
            operator = f"{owner}/scaled_dot_product_attention/{calls.get(owner, 0)}".lstrip("/")
            calls[owner] = calls.get(owner, 0) + 1
            names |= {f"{component_of(path, slot)}.{slot}": operator for slot in module.slots}
    return names


def _operators(model: ExportModel, name: str) -> Iterator[str]:
    """Yield the operators that read a component, as NNCF names them: one for each call of a layer."""
    component = model.tensors[name].component
    if component.slot not in ("weight", "input"):
        yield _fused(model)[name]
        return
    kind = model.model.tapped[component.module].kind
    calls = sum(node.op == "call_module" and node.target == component.module for node in model.model.program.graph.nodes)
    for call in range(calls):
        yield f"{component.module.replace('.', '/')}/{kind}/{call}"


def _shape(tensor: QuantizedTensor, grid: Grid) -> tuple[int, ...]:
    """Return the shape in which the scales broadcast against the tensor."""
    if grid.scale.size == 1:
        return (1,)
    if tensor.is_weight:
        return (grid.scale.size, *(1 for _ in tensor.component.shape[1:]))
    return (1, grid.scale.size, 1, 1)


def _parameters(grid: Grid, shape: tuple[int, ...]) -> tuple[str, dict[str, NDArray[Any]]]:
    """Return the class of a quantizer and its parameters."""
    state: dict[str, NDArray[Any]] = {"_num_bits": np.array([grid.bits], np.int32), "enabled": np.array([1], np.int32)}
    if grid.symmetric:  # the scale is the highest level
        state |= {"signed_tensor": np.array([1], np.int32), "scale": grid.high.reshape(shape).astype(np.float32)}
        return "SymmetricQuantizer", state
    width = (grid.high - grid.low).reshape(shape)
    state |= {"input_low": grid.low.reshape(shape).astype(np.float32), "input_range": width.astype(np.float32)}
    return "AsymmetricQuantizer", state


def _specification(grid: Grid, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "num_bits": grid.bits,
        "mode": "symmetric" if grid.symmetric else "asymmetric",
        "signedness_to_force": True if grid.symmetric else None,
        "narrow_range": False,
        "half_range": False,
        "scale_shape": list(shape),
        "logarithm_scale": False,
        "is_quantized_on_export": False,
    }
