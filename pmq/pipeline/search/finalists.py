"""From judged points to the chosen one: carry the best of them out by the whole recipe, and see which is best then."""

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
from pmq.pipeline.search.explore import METRICS
from pmq.pipeline.search.width_search import Joint, Whole
from pmq.pipeline.subject import Subject
from pmq.quant import Quantized, build_quantized_model, quantize

#: the row of a point, its model, what carrying it out gave, and what the judge says of that
Finished = tuple[int, Subject, Quantized, dict[str, float | None]]
#: points carried out layer by layer; what is best with each component by itself need not be best after that
FINALISTS = 4


def finalists(points: pd.DataFrame, error: str, count: int) -> list[int]:
    """Rows of the ``count`` simulated points within the budget that promise the least error, and of the best uniform one.

    Near the optimum, what tells one simulated error from another is mostly which images there happened to be, and the
    least of many is the luckiest: prediction and simulation count alike.

    Raises:
        PmqError: there is none.
    """
    eligible = points[points["within"] & (points["genome_id"] >= 0) & points[error].notna()]
    if eligible.empty:
        raise PmqError("none of the allocations that were simulated is within the budget; raise it, or simulate more")
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
    """Choose among ``points``: give the row, its model, what carrying it out gave, and what the judge says.

    Going layer by layer, and learning, can overfit few calibration images where little is lost to begin with: either is
    kept only if it is no worse on the judge's images than to do without. In a ``hurry`` only the most promising one is
    carried out.
    """
    error = evaluator.task.error_name
    wanted, recipe = recipe, recipe.model_copy(update={"reconstruct": 0})

    def quantize_finalist(index: int, how: Recipe) -> tuple[float, int, Quantized, dict[str, float | None]]:
        assignment = assignment_of(index)
        _, prepared = models.built(assignment)
        quantized = quantize(replace(prepared, recipe=how), bits_of(assignment), checkpoints)
        metrics = evaluator.evaluate_model(
            build_quantized_model(copy.deepcopy(prepared.model), prepared.inventory, quantized).model
        ).compute()
        return metrics[error] or 0.0, index, quantized, {name: metrics[name] for name in METRICS}

    count = FINALISTS if recipe.sequential and not hurry else 1
    found = [quantize_finalist(i, recipe) for i in track(finalists(points, error, count), "carrying out the best")]
    best = min(found, key=lambda each: each[0])
    others = [wanted] if wanted.reconstruct else []
    others += [recipe.model_copy(update={"sequential": False})] if recipe.sequential and not hurry else []
    _, index, quantized, metrics = min([best, *(quantize_finalist(best[1], how) for how in others)], key=lambda each: each[0])
    return index, models.built(assignment_of(index))[0], quantized, metrics
