"""The choice among simulated points: quantize the most promising ones by the whole recipe, and take the best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pmq.core import PmqError
from pmq.core.choice import Decisions
from pmq.core.memory import release_freed_memory
from pmq.core.progress import message, track
from pmq.core.recipe import Recipe
from pmq.evaluation import Evaluator
from pmq.evaluation.executor import Executor, Failed, Unit
from pmq.pipeline.search.explore import ACCURACY_COLUMNS, REFERENCE
from pmq.pipeline.search.state import quantize_and_evaluate, quantize_finalist
from pmq.pipeline.search.width_search import Joint, Whole
from pmq.pipeline.subject import Subject
from pmq.quant import Quantized

#: row of the chosen point, its model, the quantized model, and its metrics
Finished = tuple[int, Subject, Quantized, dict[str, float | None]]
#: metrics of a finalist, and the quantized model
_Result = tuple[dict[str, float | None], Quantized]
#: error, row, quantized model and metrics of a finalist
_Candidate = tuple[float, int, Quantized, dict[str, float | None]]
#: points quantized layer by layer; the best of separately quantized components need not be the best after that
FINALISTS = 3
#: multiple of the first finalist's error above which a point is not expected to become the best: layers move errors by less
NEAR = 1.25


def finalists(points: pd.DataFrame, error: str, count: int) -> list[int]:
    """Return the rows of the ``count`` most promising simulated points within the budget, and of a uniform one if it is near.

    Near the optimum, simulated errors differ mostly by the choice of images, and the least of many errors is biased: points
    are ranked by the product of predicted and simulated error. The best uniform point, which may have quantizers that the
    space does not, is near if its simulated error is at most ``NEAR`` times that of the first; as the only finalist, if it is
    no larger.

    Raises:
        PmqError: no simulated point is within the budget.
    """
    eligible = points[points["within"] & (points["genome_id"] >= REFERENCE) & points[error].notna()]
    if eligible.empty:
        raise PmqError("no simulated allocation is within the budget; raise the budget, or simulate more")
    searched = eligible[eligible["genome_id"] >= 0]
    searched = searched.loc[(searched[error] * searched["predicted_error"]).sort_values().index]
    uniform = eligible[eligible["source"].str.startswith("uniform")].sort_values(error)[:1]
    if len(searched):
        uniform = uniform[uniform[error] <= (NEAR if count > 1 else 1.0) * searched[error].iloc[0]]
    best = [*searched.index[:count], *uniform.index] if count > 1 or uniform.empty else uniform.index
    return list(dict.fromkeys(map(int, best)))


def finish(
    models: Joint | Whole,
    recipe: Recipe,
    points: pd.DataFrame,
    assignment_of: Callable[[int], Decisions],
    evaluator: Evaluator,
    executor: Executor,
    checkpoints: Path | None = None,
    hurry: bool = False,
) -> Finished:
    """Quantize the finalists among ``points`` and return the best: its row, its model, the quantized model and its metrics.

    Layer-by-layer compensation and reconstruction can overfit few calibration images when the error is small anyway: each
    is used only if it does not raise the error on the evaluator's images. Without compensation the error is the simulated one,
    so the best point is quantized without only where it was simulated with less error than it has. In a ``hurry`` only one
    finalist is quantized.
    Finalists of full width are quantized by the workers of the ``executor``, if it has any.

    Raises:
        PmqError: no finalist could be quantized.
    """
    error = evaluator.task.error_name
    full_recipe, recipe = recipe, recipe.model_copy(update={"reconstruct": 0})

    def quantized_by(tasks: Sequence[tuple[int, Recipe]], label: str) -> list[_Candidate]:
        release_freed_memory()
        if executor.n_workers and isinstance(models, Whole):
            units = [Unit(i, _name(*t), quantize_finalist, (assignment_of(t[0]), t[1], checkpoints)) for i, t in enumerate(tasks)]
            results = dict(_succeeded(track(executor.run(units), label, len(units))))
        else:
            results = {i: quantize_here(*task) for i, task in enumerate(track(tasks, label))}
        return [(m[error] or 0.0, tasks[i][0], q, {n: m[n] for n in ACCURACY_COLUMNS}) for i, (m, q) in sorted(results.items())]

    def quantize_here(index: int, by: Recipe) -> _Result:
        _, prepared = models.built(assignment_of(index))
        return quantize_and_evaluate(replace(prepared, recipe=by), assignment_of(index), evaluator, checkpoints)

    count = FINALISTS if recipe.sequential and not hurry else 1
    candidates = quantized_by([(index, recipe) for index in finalists(points, error, count)], "quantizing finalists")
    if not candidates:
        raise PmqError("no finalist could be quantized; see the messages above, and go on later with `resume`")
    best = min(candidates, key=lambda each: each[0])
    recipes = other_recipes(full_recipe, best[0], float(points.loc[best[1], error]), hurry)
    variants = quantized_by([(best[1], by) for by in recipes], "quantizing the best one by other recipes")
    _, index, quantized, metrics = min([best, *variants], key=lambda each: each[0])
    return index, models.built(assignment_of(index))[0], quantized, metrics


def other_recipes(recipe: Recipe, quantized_error: float, simulated_error: float, hurry: bool) -> list[Recipe]:
    """Return what else may quantize the best point better than ``recipe`` without reconstruction, which left ``quantized_error``.

    >>> from pmq.core.recipe import RECIPES
    >>> [each.sequential for each in other_recipes(RECIPES["best"], 0.15, 0.14, hurry=False)]
    [False]
    >>> other_recipes(RECIPES["best"], 0.15, 0.16, hurry=False)
    []
    """
    recipes = [recipe] if recipe.reconstruct else []
    if recipe.sequential and not hurry and simulated_error < quantized_error:
        recipes.append(recipe.model_copy(update={"sequential": False, "reconstruct": 0}))
    return recipes


def _name(index: int, recipe: Recipe) -> str:
    return f"finalist {index} by recipe {recipe.name!r}"


def _succeeded(done: Iterator[tuple[Unit, _Result | Failed]]) -> Iterator[tuple[int, _Result]]:
    """Yield the results of units by key, and report those that failed."""
    for unit, result in done:
        if isinstance(result, Failed):
            message(f"{unit.name} is left out, as its quantization failed: {result.reason}")
        else:
            assert isinstance(unit.key, int)
            yield unit.key, result
