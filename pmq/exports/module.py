"""Formats that are read into the user's own module: its weights as a safetensors file, and the layers that tools replace."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmq.core.files import write_bytes
from pmq.core.tensors import TensorFile
from pmq.exports.base import Format

if TYPE_CHECKING:
    from torch import nn

    from pmq.exports.fit import Holds
    from pmq.exports.tensor import ExportModel, QuantizedTensor


OF_ATTENTION = ("q", "k", "softmax", "v")


class ModuleFormat(Format):
    """Format of a description of the user's module, with a file of its weights beside it."""

    beside = (".safetensors",)
    reads_module = True

    def holds(self, model: ExportModel, tensor: QuantizedTensor) -> Holds | str:
        """Return what the format holds of weights and inputs of layers, and nothing of other tensors."""
        layer = layer_of(model, tensor)
        return layer if isinstance(layer, str) else self.holds_of_layer(model, tensor, layer)

    @abstractmethod
    def holds_of_layer(self, model: ExportModel, tensor: QuantizedTensor, layer: nn.Module) -> Holds | str:
        """Return :meth:`holds` of the weight or input of a layer that tools replace."""

    def write_weights(self, model: ExportModel, path: Path, further: Mapping[str, Any] | None = None) -> Path:
        """Write the state dict with ``further`` arrays beside ``path``."""
        assert model.module is not None
        arrays = {name: value.detach().cpu().numpy().copy() for name, value in model.module.state_dict().items()}
        return write_bytes(path.with_suffix(".safetensors"), TensorFile.of(arrays | dict(further or {})).data)


def layer_of(model: ExportModel, tensor: QuantizedTensor) -> nn.Module | str:
    """Return the module whose weight or input a tensor is, or the reason for which there is none that tools replace."""
    from torch import nn

    assert model.module is not None
    component = tensor.component
    if component.slot not in ("weight", "input"):
        return "operands of attention" if component.slot in OF_ATTENTION else "operands of products"
    try:
        layer = model.module.get_submodule(component.module)
    except AttributeError:
        return "the model has no module of this name"
    if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.weight.shape != model.layers[component.module].value.shape:
        return f"a layer of type {type(layer).__name__}"
    return layer
