"""A subject's model quantized by recipes, from calibration images."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import Tensor

from pmq.core import Assignment, PmqError
from pmq.core.patches import PatchMap
from pmq.core.recipe import Recipe
from pmq.pipeline.subject import Subject
from pmq.quant import Prepared, Quantized, prepare, quantize


class Fresh:
    """Copies of the subject's model prepared by a recipe, each recipe once."""

    def __init__(self, subject: Subject, images: Tensor | None, seed: int, checkpoints: Path | None) -> None:
        self._subject, self._images, self._seed, self._checkpoints = subject, images, seed, checkpoints
        self._prepared: dict[Recipe, Prepared] = {}

    def quantize(self, recipe: Recipe, assignment: Assignment, patches: PatchMap | None = None) -> Quantized:
        """Carry an allocation out by a recipe."""
        return quantize(self._prepared_by(recipe), assignment, self._checkpoints, patches)

    def _prepared_by(self, recipe: Recipe) -> Prepared:
        if self._images is None:
            raise PmqError("uniform shorthands and recalibration need calibration images; pass some")
        if recipe not in self._prepared:
            s = self._subject
            model = copy.deepcopy(s.model)
            self._prepared[recipe] = prepare(model, s.inventory, self._images, recipe, self._seed, task=s.task)
        return self._prepared[recipe]
