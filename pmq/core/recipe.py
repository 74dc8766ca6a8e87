"""Recipes: combinations of quantization methods, from the plainest to the best."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from pmq.core.errors import PmqError


class Recipe(BaseModel):
    """The quantization methods that are applied to a model beside the choice of bits.

    Attributes:
        name: name of the recipe.
        transforms: exact transforms of the FP32 model, in order (:mod:`pmq.quant.transforms`).
        estimator: estimator of ranges (:mod:`pmq.quant.estimators`).
        gradients: run backward passes at calibration, for estimators and rounding that weight errors.
        compensate: round each weight so that later columns absorb the error of earlier ones (GPTQ, 2210.17323).
        ridge: with ``sequential``: strength of the correction of weights for their input's error (ERQ, 2407.06794); 0 is off.
        sequential: quantize layer by layer: ranges, rounding and biases account for the error of earlier layers.
        reconstruct: with ``sequential``: number of gradient steps in which each block learns its rounding and scales.
        finetune: number of epochs of quantization-aware fine-tuning that followed, which no calibration repeats.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    transforms: tuple[str, ...] = ()
    estimator: str = "mse"
    gradients: bool = False
    compensate: bool = False
    ridge: float = 0.0
    sequential: bool = False
    reconstruct: int = 0
    finetune: int = 0

    @model_validator(mode="after")
    def _gradients_where_they_are_read(self) -> Self:
        if not self.gradients and (self.compensate or self.sequential or self.estimator == "fisher"):
            raise ValueError("compensate, sequential and the estimator 'fisher' need gradients")
        return self

    @property
    def plain(self) -> bool:
        """Whether the checkpoint's weights are only rounded."""
        return not (self.transforms or self.compensate or self.sequential or self.finetune)


#: gradient steps for each block; more of them gain nothing, from few images or many
RECONSTRUCTION_STEPS = 200

_TRANSFORMS = ("fold_norms", "rotate_residual", "rotate_heads", "scale_channels", "center_channels", "center_values")
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="minmax", estimator="minmax"),
        Recipe(name="percentile", estimator="percentile"),
        Recipe(name="mse", estimator="mse"),
        Recipe(name="fast", transforms=_TRANSFORMS, estimator="fisher", gradients=True, compensate=True),
        Recipe(name="best", transforms=_TRANSFORMS, estimator="fisher", gradients=True, compensate=True, sequential=True),
    )
}


def find_recipe(recipe: str | Recipe, reconstruct: bool = False) -> Recipe:
    """Return a recipe by its name, with reconstruction if ``reconstruct``.

    Raises:
        PmqError: the name is unknown, or the recipe does not quantize layer by layer, as reconstruction needs.

    >>> find_recipe("best").sequential
    True
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise PmqError(f"recipe {recipe!r} is not one of {', '.join(RECIPES)}")
        recipe = RECIPES[recipe]
    if not reconstruct:
        return recipe
    if not recipe.sequential:
        raise PmqError(f"recipe {recipe.name!r} does not quantize layer by layer, as `reconstruct` needs; use `recipe=best`")
    return recipe.model_copy(update={"reconstruct": RECONSTRUCTION_STEPS})
