"""Quantization of a subject's model by recipes, from calibration images."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import Tensor

from pmq.core import Assignment, PmqError
from pmq.core.patches import PatchMap
from pmq.core.recipe import Recipe
from pmq.pipeline.subject import Subject
from pmq.quant import Prepared, Quantized, prepare, quantize


class RecipeQuantizer:
    """Quantizes copies of a subject's model; each recipe's transforms and calibration run once.

    Args:
        subject: the model, which is left unchanged.
        images: calibration images ``(N, C, H, W)``; ``None`` if there are none.
        seed: seed of rotations and samples.
        checkpoints: folder in which reconstruction keeps finished blocks, or ``None``.
    """

    def __init__(self, subject: Subject, images: Tensor | None, seed: int, checkpoints: Path | None) -> None:
        self._subject, self._images, self._seed, self._checkpoints = subject, images, seed, checkpoints
        self._prepared: dict[Recipe, Prepared] = {}

    def quantize(self, recipe: Recipe, assignment: Assignment, patches: PatchMap | None = None) -> Quantized:
        """Quantize the model with an assignment, and with bits of single tokens where ``patches`` are given.

        Raises:
            PmqError: there are no calibration images, or the recipe includes fine-tuning.
        """
        if recipe.finetune:
            raise PmqError(
                "this allocation was fine-tuned, which images for calibration cannot repeat; recalibrate the one that "
                "fine-tuning started from, and run `pmq finetune` on it"
            )
        return quantize(self._prepared_by(recipe), assignment, self._checkpoints, patches)

    def _prepared_by(self, recipe: Recipe) -> Prepared:
        if self._images is None:
            raise PmqError("uniform shorthands and recalibration need calibration images; pass some")
        if recipe not in self._prepared:
            subject, model = self._subject, copy.deepcopy(self._subject.model)
            self._prepared[recipe] = prepare(model, subject.inventory, self._images, recipe, self._seed, task=subject.task)
        return self._prepared[recipe]
