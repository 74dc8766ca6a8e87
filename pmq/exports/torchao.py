"""torchao: an ``FqnToConfig`` as JSON, which maps modules to configs, and the weights to load before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pmq.core.files import write_text
from pmq.core.progress import message
from pmq.exports.base import register
from pmq.exports.fit import ALL_BITS, Fitted, Holds
from pmq.exports.module import ModuleFormat

if TYPE_CHECKING:
    from torch import nn

    from pmq.exports.tensor import ExportModel, QuantizedTensor


@register
class TorchAO(ModuleFormat):
    """Format that ``torchao.core.config.config_from_dict`` reads, for ``torchao.quantization.quantize_``."""

    name = "torchao"
    tool = "torchao"
    suffix = ".json"

    def holds_of_layer(self, model: ExportModel, tensor: QuantizedTensor, layer: nn.Module) -> Holds | str:
        """Return weights of linear layers, and inputs whose grids are found at run time for each token."""
        from torch import nn

        if not isinstance(layer, nn.Linear):
            return "convolutions"
        if not tensor.is_weight:
            if tensor.choice.quantizer != "dynamic":
                return "fixed ranges of inputs"
            weight = model.tensors.get(f"{tensor.component.module}.weight")
            return (
                Holds((), dynamic=True)
                if weight is not None and weight.grid is not None
                else "inputs of layers with FP32 weights"
            )
        group = tensor.choice.group_size
        if group is not None and layer.in_features % group:
            return f"groups of {group}, which {layer.in_features} inputs do not fill"
        return Holds(ALL_BITS, ("channel", "group"), asymmetric=False)

    def write(self, model: ExportModel, fitted: Fitted, path: Path) -> list[Path]:
        """Write the config and the weights, and report the rows whose scale torchao cannot derive from their values."""
        weights = [name for name in fitted.grids if model.tensors[name].is_weight]
        configs = {}
        for name in weights:
            module = model.tensors[name].component.module
            group = model.tensors[name].choice.group_size
            configs[module] = _config(fitted.grids[name].bits, group, f"{module}.input" in fitted.dynamic)
        _report_rounded(model, fitted, weights)
        data = {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": configs, "module_fqn_to_config": configs}}
        return [write_text(path, json.dumps(data, indent=1) + "\n"), self.write_weights(model, path)]


def _config(bits: int, group: int | None, dynamic: bool) -> dict[str, Any]:
    """Return the config of a layer as torchao's ``config_to_dict`` writes it.

    This mapping type takes the scale from the outermost integer that a row has, which restores the row's own scale.
    """
    granularity = _typed("PerAxis", axis=0) if group is None else _typed("PerGroup", group_size=group)
    mapping, width = _named("MappingType", "SYMMETRIC_NO_CLIPPING_ERR"), _named("torch.dtype", f"int{bits}")
    common: dict[str, Any] = {
        "intx_packing_format": _named("IntxPackingFormat", "UNPACKED_TO_INT8"),
        "intx_choose_qparams_algorithm": _named("IntxChooseQParamsAlgorithm", "AFFINE"),
    }
    if dynamic:
        common |= {"weight_dtype": width, "weight_granularity": granularity, "weight_mapping_type": mapping}
        common |= {"weight_scale_dtype": None, "act_mapping_type": _named("MappingType", "ASYMMETRIC")}
        return {"_type": "Int8DynamicActivationIntxWeightConfig", "_version": 2, "_data": common}
    common |= {"weight_dtype": width, "granularity": granularity, "mapping_type": mapping, "scale_dtype": None}
    return {"_type": "IntxWeightOnlyConfig", "_version": 2, "_data": common}


def _typed(kind: str, **fields: Any) -> dict[str, Any]:
    return {"_type": kind, "_version": 1, "_data": fields}


def _named(kind: str, value: str) -> dict[str, Any]:
    return {"_type": kind, "_data": value}


def _report_rounded(model: ExportModel, fitted: Fitted, weights: list[str]) -> None:
    rounded = rows = 0
    for name in weights:
        grid, layer = fitted.grids[name], model.layers[model.tensors[name].component.module]
        assert layer.codes is not None
        codes = layer.codes.reshape(-1, layer.codes.size // grid.scale.size)
        low, high = -(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1) - 1
        rows += len(codes)
        rounded += int(np.count_nonzero((codes.min(1) > low) & (codes.max(1) < high)))
    if rounded:
        message(
            f"{rounded} of {rows} rows of weights do not reach the ends of their grids; torchao derives another scale for them "
            "and rounds their values again"
        )
