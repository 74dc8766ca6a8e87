"""Quantized models as data, and the models that are built from them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.choice import FLOAT, FLOATS, Assignment, ComponentChoice
from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.patches import PatchMap
from pmq.core.recipe import Recipe
from pmq.core.tensors import TensorFile
from pmq.graph import CapturedModel
from pmq.models.weights import OF_MODULE, parameters_file
from pmq.quant.biases import round_biases
from pmq.quant.calibration import Calibration, images_sha256
from pmq.quant.layerwise import LayerwiseQuantizer
from pmq.quant.prepare import Prepared
from pmq.quant.quantizers import QUANTIZERS, Quantizer
from pmq.quant.reconstruction import REVISION
from pmq.quant.simulator import Simulator
from pmq.quant.tokens import install
from pmq.quant.weights import QuantizedWeight, pack, rows_shape, stored, unpack

Parameters = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Quantized:
    """Quantized model as data: choices, parameters of activation quantizers, and all tensors.

    ``patches`` are bits of single tokens. Tensors are named as in the state dict; a quantized weight is replaced by ``.codes``
    (densely packed bits), ``.scale`` unless its format is a floating-point one, and ``.zero_point`` unless its grid is symmetric;
    that of a palette has ``.levels``, bytes from 0 to 254.
    """

    assignment: Assignment
    recipe: Recipe
    parameters: Parameters
    tensors: TensorFile
    patches: PatchMap | None = None


@torch.no_grad()
def quantize(
    prepared: Prepared, assignment: Assignment, checkpoints: Path | None = None, patches: PatchMap | None = None
) -> Quantized:
    """Quantize a copy of the prepared model with an assignment, using the methods of its recipe.

    ``checkpoints`` is a folder in which reconstruction stores finished blocks, in a subfolder named by a digest of everything
    that determines them. ``patches`` are bits of single tokens; a layer-by-layer recipe refits the grid of each bit-width to
    the tokens of that bit-width.
    """
    model = copy.deepcopy(prepared.model)
    plain = dict(model.named_parameters())  # collected before modules are replaced, which would rename some parameters
    simulator = Simulator(model, prepared.inventory, prepared.calibration, prepared.rounding())
    if prepared.recipe.sequential:
        folder = checkpoints / _digest(prepared, assignment) if checkpoints and prepared.recipe.reconstruct else None
        layerwise = LayerwiseQuantizer(simulator, prepared.images, prepared.recipe, folder, patches, prepared.task)
        layerwise.quantize(assignment)
        weights, quantizers = layerwise.weights, layerwise.quantizers
        patches = None if patches is None else _refitted(patches, layerwise.by_bits)
    else:
        named = {c.name: c for c in prepared.inventory if not assignment[c.name].is_fp32}
        if patches is not None:
            fitted = prepared.calibration.quantizer
            grids = {n: {b: fitted(n, c.choice) for b, c in t.others.items()} for n, t in patches.components.items()}
            patches = _refitted(patches, grids)
        weights = {n: simulator.quantized_weight(c, assignment[n]) for n, c in named.items() if c.role == "weight"}
        quantizers = {n: prepared.calibration.quantizer(n, assignment[n]) for n, c in named.items() if c.role == "activation"}
    arrays = packed(plain, weights, assignment)
    parameters = {name: quantizer.numbers for name, quantizer in quantizers.items()}
    return Quantized(dict(assignment), prepared.recipe, parameters, TensorFile.of(arrays), patches)


def packed(parameters: Mapping[str, Tensor], weights: Mapping[str, QuantizedWeight], assignment: Assignment) -> dict[str, Any]:
    """Return the tensors of a quantized model as NumPy arrays, named as in :class:`Quantized`.

    Args:
        parameters: all parameters of the model, by name.
        weights: its quantized weights, by component.
        assignment: the choice of each component.
    """
    arrays: dict[str, Any] = {n: p.detach().cpu().numpy() for n, p in parameters.items() if n not in weights}
    for name, weight in weights.items():
        choice = assignment[name]
        arrays[f"{name}.codes"] = pack(weight.codes.cpu(), choice.bits).numpy()
        for key, value in weight.quantizer.parameters.items():
            if key != "zero_point" or not choice.symmetric:
                value = value.to(torch.uint8) if key == "levels" else value
                arrays[f"{name}.{key}"] = value.reshape(-1).cpu().numpy()
    return arrays


def _refitted(patches: PatchMap, grids: Mapping[str, Mapping[int, Quantizer]]) -> PatchMap:
    """Return the map with the parameters of ``grids``, which are quantizers by component and bit-width."""

    def with_grid(choice: ComponentChoice, quantizer: Quantizer) -> ComponentChoice:
        return choice.model_copy(update={"parameters": quantizer.numbers})

    components = {
        name: tokens.model_copy(update={"others": {b: with_grid(c, grids[name][b]) for b, c in tokens.others.items()}})
        for name, tokens in patches.components.items()
    }
    return patches.model_copy(update={"components": components})


def _digest(prepared: Prepared, assignment: Assignment) -> str:
    """Return a digest of everything that determines the quantized model."""
    model = parameters_file(prepared.model)
    choices = {n: c.model_dump() for n, c in sorted(assignment.items())}
    inputs = [model.sha256, images_sha256(prepared.images), prepared.recipe.model_dump(), choices, REVISION]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def build_quantized_model(model: CapturedModel, inventory: Inventory, quantized: Quantized, integers: bool = True) -> Simulator:
    """Make ``model`` compute with the quantized tensors and quantizers, in place; its weights are overwritten.

    ``integers=False`` multiplies quantized values in FP32 instead of their integers: the same model with other rounding of sums.

    Returns:
        The simulator that applies the quantizers; its ``model`` is the quantized model.

    Raises:
        PmqError: the tensors belong to another model.
    """
    weights = restore(model, quantized)
    known = Calibration(known=quantized.parameters)
    simulator = Simulator(model, inventory, known, lambda component, *_: weights[component.name], integers)
    simulator.apply(quantized.assignment)
    if inventory.whole:
        round_biases(simulator, weights)
    if quantized.patches is not None:
        install(simulator, quantized.patches)
    return simulator


@torch.no_grad()
def restore(model: nn.Module, quantized: Quantized) -> dict[str, QuantizedWeight]:
    """Overwrite the parameters of ``model`` by their quantized values, and return the quantized weights by name.

    Raises:
        PmqError: the tensors belong to another model.
    """
    arrays = quantized.tensors.arrays()
    weights: dict[str, QuantizedWeight] = {}
    known = set()
    for name, parameter in list(model.named_parameters()):
        known.add(name)
        if quantized.assignment.get(name, FLOAT).is_fp32:
            value = torch.from_numpy(_tensor(arrays, name))
        else:
            known |= {f"{name}.{part}" for part in ("codes", "scale", "zero_point", "levels")}
            weights[name] = _decode(arrays, name, parameter, quantized)
            value = weights[name].dequantize()
        if value.shape != parameter.shape:
            raise PmqError(f"tensor {name!r} of the allocation has shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
        parameter.data.copy_(value)
    layers: dict[str, Any] = dict(model.named_modules())
    for name in sorted(name for name in arrays.keys() - known if not name.startswith(OF_MODULE)):  # biases that transforms added
        owner, _, leaf = name.rpartition(".")
        layer: Any = layers.get(owner)
        like = next(model.parameters())
        if leaf != "bias" or getattr(layer, "bias", like) is not None or arrays[name].shape != layer.weight.shape[:1]:
            raise PmqError(
                f"the allocation's tensors contain {name!r}, which this model does not have; they belong to another model"
            )
        layer.bias = nn.Parameter(torch.from_numpy(arrays[name]).to(like), requires_grad=False)
    return weights


def _tensor(arrays: Mapping[str, Any], name: str) -> Any:
    """Return a tensor of the allocation; raise if it is missing."""
    if name not in arrays:
        raise PmqError(f"the allocation's tensors have no {name!r}; they belong to another model")
    return arrays[name]


def _decode(arrays: Mapping[str, Any], name: str, parameter: Tensor, quantized: Quantized) -> QuantizedWeight:
    """Rebuild a quantized weight from the stored tensors."""
    choice, device = quantized.assignment[name], parameter.device
    rows = rows_shape(parameter.shape, choice)
    codes = unpack(torch.from_numpy(_tensor(arrays, f"{name}.codes")), choice.bits, rows.numel()).reshape(rows)
    grid: dict[str, Tensor] = {}
    if choice.quantizer not in FLOATS:
        grid["scale"] = scale = torch.from_numpy(_tensor(arrays, f"{name}.scale")).reshape(-1, 1).to(device)
        if choice.quantizer == "palette":
            grid["levels"] = torch.from_numpy(_tensor(arrays, f"{name}.levels")).to(device, scale.dtype)
        elif choice.symmetric:
            grid["zero_point"] = torch.full_like(scale, 2.0 ** (choice.bits - 1))
        else:
            grid["zero_point"] = torch.from_numpy(_tensor(arrays, f"{name}.zero_point")).reshape(-1, 1).to(device)
    quantizer = QUANTIZERS[choice.quantizer](grid, choice.bits)
    return QuantizedWeight(stored(codes, choice.bits).to(device), quantizer, parameter.shape)
