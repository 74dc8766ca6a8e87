"""From a recipe to a model that is ready to be quantized: rewritten, calibrated, with its way of rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pmq.core.choice import Choice
from pmq.core.component import Component, Inventory
from pmq.core.recipe import Recipe
from pmq.core.task import CLASSIFICATION, Task
from pmq.quant.calibration import Calibration, calibrate
from pmq.quant.compensation import SecondMoment, compensated
from pmq.quant.simulator import Cutter, Rounding, Simulator, nearest
from pmq.quant.transforms import TRANSFORMS, Setting
from pmq.quant.weights import QuantizedWeight


@dataclass(frozen=True)
class Prepared:
    """A model rewritten by a recipe's transforms, and its calibration on ``images``."""

    model: nn.Module
    inventory: Inventory
    recipe: Recipe
    calibration: Calibration
    images: Tensor
    task: Task = CLASSIFICATION

    def simulator(self, cutter: Cutter | None = None) -> Simulator:
        """A simulator on the model, which is changed in place until the simulator is closed."""
        return Simulator(self.model, self.inventory, self.calibration, self.rounding(), cutter=cutter)

    def rounding(self) -> Rounding:
        """How the recipe rounds weights, each layer by itself."""
        return Compensating(self.calibration.moments) if self.recipe.compensate else nearest


@torch.no_grad()
def prepare(
    model: nn.Module,
    inventory: Inventory,
    images: Tensor,
    recipe: Recipe,
    seed: int = 0,
    n_held_out: int = 0,
    task: Task = CLASSIFICATION,
) -> Prepared:
    """Rewrite ``model`` in place and calibrate it on ``images`` ``(N, C, H, W)``."""
    for name in recipe.transforms:
        TRANSFORMS[name](model, Setting(images, seed))
    calibration = calibrate(model, inventory, images, seed, n_held_out, recipe.gradients, task)
    return Prepared(model, inventory, recipe, calibration, images, task)


class Compensating:
    """Rounds a weight with compensation on the FP32 inputs of its layer: one solve for each choice."""

    def __init__(self, moments: dict[str, SecondMoment]) -> None:
        self._moments = moments

    def __call__(self, component: Component, weight: Tensor, choice: Choice, columns: Tensor | None = None) -> QuantizedWeight:
        """Quantize."""
        moment = self._moments[component.module].compute()
        return compensated(weight, choice, moment if columns is None else moment[columns][:, columns])
