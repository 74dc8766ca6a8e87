"""The model that fine-tuning starts from: an allocation, or uniform bits that are quantized first."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pmq.core import Allocation, PmqError
from pmq.core.allocation import CalibrationInfo
from pmq.core.coverage import check_coverage, coverage
from pmq.core.files import is_file
from pmq.core.recipe import Recipe, find_recipe
from pmq.core.run_files import START
from pmq.core.spec import What, read_bits
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.allocation import make_allocation
from pmq.pipeline.images import as_images
from pmq.pipeline.measure import check_quantizers
from pmq.pipeline.quantize import RecipeQuantizer
from pmq.pipeline.students import check_trainable
from pmq.pipeline.subject import Subject
from pmq.quant import images_sha256


@dataclass(frozen=True)
class StartSettings:
    """How uniform bits are quantized before they are fine-tuned; see :func:`pmq.finetune` for the attributes."""

    calibration_images: Tensor | None
    space: str | SpaceFile
    recipe: str | Recipe
    reconstruct: bool
    checkpoints: Path | None
    partial: bool
    seed: int

    def check(self, what: What, subject: Subject) -> None:
        """Check that a model can be fine-tuned, before any long work.

        Raises:
            PmqError: it cannot be trained, is of another model, or there are no images to quantize it on.
        """
        if isinstance(what, Allocation):
            what.check_model(subject.info)
            check_trainable(what)
            return
        if what == "fp32":
            raise PmqError("'fp32' has nothing to fine-tune; name an allocation, a run, or uniform bits such as w4a4")
        if self.calibration_images is None:
            raise PmqError(f"{what!r} is quantized before it is fine-tuned, which needs calibration images; pass some")
        if self._space.operators is not None:
            raise PmqError(
                f"search space {self._space.name!r} has bits for every tensor between operators, which cannot be fine-tuned; "
                "use a space of layers and operands, such as `space=default`"
            )
        check_coverage(coverage(subject.inventory), self.partial)
        check_quantizers(Space(self._space, subject.inventory, self._recipe.estimator))

    def described(self, what: What) -> Any:
        """Return what determines the start, in the form that a run's settings record."""
        if isinstance(what, Allocation):
            return hashlib.sha256(what.model_dump_json(exclude={"producer"}).encode()).hexdigest()[:16]
        images = images_sha256(as_images(self.calibration_images))[:16]
        return [what, self._space.model_dump(mode="json"), self._recipe.model_dump(), images, self.seed]

    def allocation(self, what: What, subject: Subject, run: Path) -> Allocation:
        """Return the allocation to start from: as given, as a killed run stored it, or quantized now and stored."""
        if isinstance(what, Allocation):
            return what
        if is_file(run / START):
            stored = Allocation.load(run / START)
            if stored.tensors is not None:  # they are missing if the run was killed between both files
                return stored
        images = as_images(self.calibration_images).cpu()
        assignment = Space(self._space, subject.inventory, self._recipe.estimator).uniform(*read_bits(what))
        quantized = RecipeQuantizer(subject, images, self.seed, self.checkpoints).quantize(self._recipe, assignment)
        info = CalibrationInfo(sha256=images_sha256(images), n_images=len(images), seed=self.seed)
        allocation = make_allocation(subject, quantized, info, self._space.name, budget=what)
        allocation.save(run / START)
        return allocation

    @property
    def _space(self) -> SpaceFile:
        return read_space(self.space)

    @property
    def _recipe(self) -> Recipe:
        return find_recipe(self.recipe, self.reconstruct)
