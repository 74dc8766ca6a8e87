"""Preparation of a model for quantization by a recipe: rewriting by transforms, calibration and choice of rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.component import Component, Inventory
from pmq.core.errors import PmqError
from pmq.core.recipe import Recipe
from pmq.core.task import CLASSIFICATION, Task
from pmq.graph import CapturedModel
from pmq.models.equivalence import TOLERANCE, Equivalence, Rewriting
from pmq.quant.calibration import Calibration, calibrate
from pmq.quant.compensation import Compensator, SecondMoment
from pmq.quant.instrument import Instrument
from pmq.quant.simulator import Rounding, Simulator, WeightMasker, nearest
from pmq.quant.transforms import Setting, apply_transforms
from pmq.quant.weights import QuantizedWeight, quantize_weight


@dataclass(frozen=True)
class Prepared:
    """Model that a recipe's transforms have rewritten, and its calibration on ``images``."""

    model: CapturedModel
    inventory: Inventory
    recipe: Recipe
    calibration: Calibration
    images: Tensor
    task: Task = CLASSIFICATION
    #: results of the recipe's transforms, in order
    rewritings: tuple[Rewriting, ...] = ()

    def simulator(self, masker: WeightMasker | None = None) -> Simulator:
        """Return a simulator of the model, which is changed in place until the simulator is closed."""
        return Simulator(self.model, self.inventory, self.calibration, self.rounding(), masker=masker)

    def rounding(self) -> Rounding:
        """Return the rounding by which the recipe quantizes the weight of one layer, independently of other layers."""
        return Compensating(self.calibration.moments) if self.recipe.compensate else nearest


@torch.no_grad()
def prepare(
    model: CapturedModel,
    inventory: Inventory,
    images: Tensor,
    recipe: Recipe,
    seed: int = 0,
    n_held_out: int = 0,
    task: Task = CLASSIFICATION,
) -> Prepared:
    """Rewrite ``model`` in place and calibrate it on ``images`` ``(N, C, H, W)``.

    Transforms that would change the outputs of this model are undone, see :class:`pmq.models.equivalence.Equivalence`.

    Raises:
        PmqError: intercepting the model's components changes its outputs, or an activation is not finite.
    """
    equivalence = Equivalence(model, images)
    rewritings = apply_transforms(model, recipe.transforms, Setting(images, seed), equivalence)
    _check_instrument(model, inventory, equivalence)
    calibration = calibrate(model, inventory, images, seed, n_held_out, recipe.gradients, task)
    return Prepared(model, inventory, recipe, calibration, images, task, rewritings)


def _check_instrument(model: CapturedModel, inventory: Inventory, equivalence: Equivalence) -> None:
    """Raise if intercepting every component of the model, without quantizing any, changes its outputs."""
    with Instrument(model, inventory) as instrument:
        for component in inventory:
            if component.role == "activation":
                instrument.set_activation(component.name, _unchanged)
        error = equivalence.error(model)
    if error > TOLERANCE:
        raise PmqError(
            "this model cannot be simulated: intercepting its components changes its outputs even without quantization "
            f"(relative error {error:.2g}); its modules compute something that the simulator does not support"
        )


def _unchanged(x: Tensor) -> Tensor:
    return x


class Compensating:
    """Rounding of weights with compensation on the FP32 inputs of their layer: one linear solve for each weight."""

    def __init__(self, moments: Mapping[str, SecondMoment]) -> None:
        self._moments = moments
        self._last: tuple[str, Compensator] | None = None  # as the choices of one weight usually follow one another

    def __call__(self, component: Component, weight: Tensor, choice: Choice, columns: Tensor | None = None) -> QuantizedWeight:
        """Quantize a weight, or its remaining ``columns``."""
        if component.module not in self._moments:  # grouped and transposed convolutions have no moments
            return quantize_weight(weight, choice)
        if columns is not None:
            moment = self._moments[component.module].compute()
            return Compensator(moment[columns][:, columns]).quantize(weight, choice)
        last = self._last  # another thread may replace it
        if last is None or last[0] != component.module:
            self._last = last = component.module, Compensator(self._moments[component.module].compute())
        return last[1].quantize(weight, choice)
