"""Quantized model whose weights, step sizes and offsets can be trained."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from pmq.core.choice import Choice
from pmq.core.component import Component, Inventory
from pmq.core.tensors import TensorFile
from pmq.graph import CapturedModel
from pmq.models.weights import OF_MODULE
from pmq.quant.calibration import Calibration
from pmq.quant.finetuning.learned_grid import LearnedGrid
from pmq.quant.quantized_model import Quantized, build_quantized_model, packed, restore
from pmq.quant.quantizers import Quantizer
from pmq.quant.simulator import Simulator
from pmq.quant.weights import QuantizedWeight, from_rows, stored, to_rows


class LearnedWeight(nn.Module):
    """Weight that is quantized in each forward pass, with a learned grid.

    Args:
        weight: trained parameter ``(O, I, ...)``, which the model owns.
        quantized: the weight as it was quantized.
        choice: its choice.
    """

    def __init__(self, weight: nn.Parameter, quantized: QuantizedWeight, choice: Choice) -> None:
        super().__init__()
        self._weight, self._choice = [weight], choice  # in a list, so that the parameter is registered once, in the model
        self.grid = LearnedGrid(quantized.quantizer, choice, quantized.codes.shape[1])

    def forward(self) -> Tensor:
        """Return the quantized values ``(O, I, ...)``."""
        (weight,) = self._weight
        return from_rows(self.grid(to_rows(weight, self._choice)), weight.shape)

    def distance(self) -> Tensor:
        """Return the squared distance of the weight from its levels, without what lies beyond the outermost ones."""
        (weight,) = self._weight
        rows, quantizer = to_rows(weight, self._choice), self.grid.quantizer()
        low, high = quantizer.ends
        inside = torch.minimum(torch.maximum(rows, low.to(rows.device)), high.to(rows.device))
        return (inside - quantizer(rows.detach())).square().sum()

    @torch.no_grad()
    def quantized(self) -> QuantizedWeight:
        """Return the codes and the learned grid."""
        (weight,) = self._weight
        quantizer = self.grid.quantizer()
        codes = quantizer.codes(to_rows(weight.detach(), self._choice))
        return QuantizedWeight(stored(codes, self._choice.bits), quantizer, weight.shape)


class QuantizedStudent(nn.Module):
    """Quantized model that computes with the bits of an allocation while it is trained.

    Its parameters are those of the model, of which quantized weights are rounded in each forward pass, and those of all grids.

    Args:
        model: the captured model in FP32, which is left unchanged.
        inventory: its components.
        quantized: the quantized model to start from, without bits of single tokens.
    """

    def __init__(self, model: CapturedModel, inventory: Inventory, quantized: Quantized) -> None:
        super().__init__()
        self._fp32, self._inventory, self._start = [model], inventory, quantized
        self.model = copy.deepcopy(model)
        weights = restore(self.model, quantized)
        self._simulator = simulator = Simulator(self.model, inventory, Calibration(known=quantized.parameters), integers=False)
        names = [c.name for c in inventory if not quantized.assignment[c.name].is_fp32]
        #: learned grids of activations, and learned weights, by component; names of modules cannot contain dots
        self.grids = nn.ModuleDict({name.replace(".", "/"): self._learned(inventory[name], weights) for name in names})
        for name in names:
            grid = self.grids[name.replace(".", "/")]
            if isinstance(grid, LearnedWeight):
                simulator.layer(name).learned = grid.forward  # not the module, which would be registered a second time
            else:
                simulator.set_activation(name, grid.forward)
        self.to(next(model.parameters()).device)

    def _learned(self, component: Component, weights: dict[str, QuantizedWeight]) -> nn.Module:
        name, choice, simulator = component.name, self._start.assignment[component.name], self._simulator
        if component.role == "weight":
            return LearnedWeight(simulator.layer(name).weight, weights[name], choice)
        scales = component.heads if choice.granularity == "head" else 1
        quantizer = simulator.calibration.quantizer(name, choice)
        return LearnedGrid(
            quantizer, choice, component.numel // scales, partial(simulator.spread, name), partial(simulator.by_scale, name)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs for images ``(B, C, H, W)``."""
        return self._simulator.run(images)

    @property
    def names_of_grids(self) -> frozenset[str]:
        """Names of the parameters of grids."""
        return frozenset(f"grids.{name}" for name, _ in self.grids.named_parameters())

    @property
    def has_weights(self) -> bool:
        """Whether any weight is quantized."""
        return any(isinstance(grid, LearnedWeight) for grid in self.grids.values())

    def oscillation(self) -> Tensor:
        """Return the squared distance of all weights from their levels, which damps oscillation between two (2203.11086)."""
        weights = [grid for grid in self.grids.values() if isinstance(grid, LearnedWeight)]
        return torch.stack([weight.distance() for weight in weights]).sum()

    @torch.no_grad()
    def quantized(self) -> Quantized:
        """Return the quantized model as data."""
        grids = {name.replace("/", "."): grid for name, grid in self.grids.items()}
        weights = {name: grid.quantized() for name, grid in grids.items() if isinstance(grid, LearnedWeight)}
        quantizers: dict[str, Quantizer] = {n: grid.quantizer() for n, grid in grids.items() if isinstance(grid, LearnedGrid)}
        arrays = packed(dict(self.model.named_parameters()), weights, self._start.assignment)
        arrays |= {name: array for name, array in self._start.tensors.arrays().items() if name.startswith(OF_MODULE)}
        parameters = {name: quantizer.numbers for name, quantizer in quantizers.items()}
        return Quantized(self._start.assignment, self._start.recipe, parameters, TensorFile.of(arrays))

    def simulation(self) -> CapturedModel:
        """Return the model that everyone builds from :meth:`quantized`."""
        (model,) = self._fp32
        return build_quantized_model(copy.deepcopy(model), self._inventory, self.quantized()).model
