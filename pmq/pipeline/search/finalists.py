"""The choice among simulated points: quantize the most promising ones by the whole recipe, and take the best."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pmq.core import PmqError
from pmq.core.choice import Decisions, bits_of
from pmq.core.progress import track
from pmq.core.recipe import Recipe
from pmq.evaluation import Evaluator
from pmq.pipeline.search.explore import ACCURACY_COLUMNS
from pmq.pipeline.search.width_search import Joint, Whole
from pmq.pipeline.subject import Subject
from pmq.quant import Quantized, build_quantized_model, quantize

#: row of the chosen point, its model, the quantized model, and its metrics
Finished = tuple[int, Subject, Quantized, dict[str, float | None]]
#: points quantized layer by layer; the best of separately quantized components need not be the best after that
FINALISTS = 4


def finalists(points: pd.DataFrame, error: str, count: int) -> list[int]:
    """Return the rows of the ``count`` most promising simulated points within the budget, and of the best uniform one.

    Near the optimum, simulated errors differ mostly by the choice of images, and the least of many errors is biased: points
    are ranked by the product of predicted and simulated error.

    Raises:
        PmqError: no simulated point is within the budget.
    """
    eligible = points[points["within"] & (points["genome_id"] >= 0) & points[error].notna()]
    if eligible.empty:
        raise PmqError("no simulated allocation is within the budget; raise the budget, or simulate more")
    eligible = eligible.loc[(eligible[error] * eligible["predicted_error"]).sort_values().index]
    uniform = eligible[eligible["source"].str.startswith("uniform")]
    best = [*eligible.index[:count], *(uniform.index[:1] if count > 1 else [])]
    return list(dict.fromkeys(map(int, best)))


def finish(
    models: Joint | Whole,
    recipe: Recipe,
    points: pd.DataFrame,
    assignment_of: Callable[[int], Decisions],
    evaluator: Evaluator,
    checkpoints: Path | None = None,
    hurry: bool = False,
) -> Finished:
    """Quantize the finalists among ``points`` and return the best: its row, its model, the quantized model and its metrics.

    Layer-by-layer compensation and reconstruction can overfit few calibration images when the error is small anyway: each
    is used only if it does not raise the error on the evaluator's images. In a ``hurry`` only one finalist is quantized.
    """
    error = evaluator.task.error_name
    full_recipe, recipe = recipe, recipe.model_copy(update={"reconstruct": 0})

    def quantize_finalist(index: int, by: Recipe) -> tuple[float, int, Quantized, dict[str, float | None]]:
        assignment = assignment_of(index)
        _, prepared = models.built(assignment)
        quantized = quantize(replace(prepared, recipe=by), bits_of(assignment), checkpoints)
        metrics = evaluator.evaluate_model(
            build_quantized_model(copy.deepcopy(prepared.model), prepared.inventory, quantized).model
        ).compute()
        return metrics[error] or 0.0, index, quantized, {name: metrics[name] for name in ACCURACY_COLUMNS}

    count = FINALISTS if recipe.sequential and not hurry else 1
    quantized_points = [quantize_finalist(i, recipe) for i in track(finalists(points, error, count), "quantizing finalists")]
    best = min(quantized_points, key=lambda each: each[0])
    recipes = [full_recipe] if full_recipe.reconstruct else []
    recipes += [recipe.model_copy(update={"sequential": False})] if recipe.sequential and not hurry else []
    variants = [quantize_finalist(best[1], by) for by in recipes]
    _, index, quantized, metrics = min([best, *variants], key=lambda each: each[0])
    return index, models.built(assignment_of(index))[0], quantized, metrics
