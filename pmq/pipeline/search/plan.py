"""A search before any measurement: what is asked for is read, checked, and laid over the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pmq.core import Budget, Limits, PmqError
from pmq.core.coverage import Coverage, check_coverage, coverage
from pmq.core.files import check_target
from pmq.core.paths import named_path
from pmq.core.recipe import Recipe, find_recipe
from pmq.core.run_files import MANIFEST
from pmq.core.rundir import RunDir
from pmq.metrics import METRICS
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.images import gather_images
from pmq.pipeline.measure import check_quantizers
from pmq.pipeline.patches.map_size import map_bytes
from pmq.pipeline.patches.reallocator import check_possible
from pmq.pipeline.search.agreement import Goal
from pmq.pipeline.search.budget import resolve_budget, tell_limits
from pmq.pipeline.search.options import DataSplit, RunOptions, SearchOptions
from pmq.pipeline.search.settings import named_after, search_settings
from pmq.pipeline.search.width_options import groups_of
from pmq.pipeline.search.width_search import Joint
from pmq.pipeline.subject import Subject, divide_images, take_in


@dataclass(frozen=True)
class SearchImages:
    """The images of a search ``(N, C, H, W)``: all of them, and those that calibrate, measure sensitivity, and judge."""

    all: Tensor
    calibration: Tensor
    probed: Tensor
    evaluated: Tensor

    @property
    def held_out(self) -> Tensor:
        """Those that measure and those that judge, which lie behind one another."""
        first = len(self.calibration)
        return self.all[first : first + len(self.probed) + len(self.evaluated)]


@dataclass(frozen=True)
class SearchPlan:
    """What the steps of a search work on.

    Attributes:
        budget: as asked for.
        limits: the budget in figures; of a budget of agreement those that are measured at first.
        goal: of a budget of agreement, what is sought.
        recipe: how the model is quantized.
        space: the search space laid over the model's components.
        subject: the model as captured.
        images: what does what.
        widths: the model whose widths are searched beside bits, if they are.
        reference: FP32 model that candidates are to agree with, where that is another one.
        coverage: how much of the model is searched.
        options, how: what the search was told.
        run: the run directory, if one is written.
    """

    budget: Budget
    limits: Limits
    goal: Goal | None
    recipe: Recipe
    space: Space
    subject: Subject
    images: SearchImages
    widths: Joint | None
    reference: nn.Module | None
    coverage: Coverage
    options: SearchOptions
    how: RunOptions
    run: RunDir | None

    @property
    def path(self) -> Path | None:
        """Of the run directory."""
        return None if self.run is None else self.run.path


def plan_search(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    budget: str | Budget,
    space: str | SpaceFile,
    out: Path | str | None,
    options: SearchOptions,
    split: DataSplit,
    how: RunOptions,
) -> SearchPlan:
    """Read and check what a search is asked for; see :func:`pmq.search` for the arguments.

    Raises:
        PmqError: bad input, told in one line.
    """
    budget = budget if isinstance(budget, Budget) else Budget.parse(budget)
    METRICS[options.metric]  # an unknown name is told before any work
    out = None if out is None else check_target(named_path(out, "run directory") / MANIFEST).parent
    recipe = find_recipe(options.recipe, options.reconstruct)
    space_file = space if isinstance(space, SpaceFile) else read_space(space)
    gathered = gather_images(images, split.n_calibration + split.n_held_out)
    divided = SearchImages(gathered, *divide_images(gathered, split.n_calibration, split.n_held_out))
    subject = _subject(model, divided.calibration, options, how)
    constraints, target = options.constraints, None if options.latency is None else options.latency.target
    space_file = space_file if constraints is None else constraints.applied(space_file, subject.inventory)
    reference = None if options.reference is None else take_in(options.reference, how.device, divided.calibration)
    groups = groups_of(space_file, target)
    widths = Joint(subject, divided.calibration, recipe, how.seed, groups) if options.prune else None
    laid_out = Space(space_file, subject.inventory, recipe.estimator, options.latency, widths.widths if widths else ())
    check_quantizers(laid_out)
    if options.patches is not None:
        _check_patches(options, subject, target)
    goal = _goal(budget, laid_out, subject, options)
    reserved = 0 if options.patches is None else map_bytes(laid_out, options.patches)
    limits = goal.guess if goal else resolve_budget(budget, laid_out, reserved)
    if constraints is not None and constraints.any:
        tell_limits(budget, Limits() if goal else limits, constraints.told())
    covered = coverage(subject.inventory, laid_out.choices)
    check_coverage(covered, options.partial)
    images_of = (divided.calibration, divided.held_out)
    settings = search_settings(budget, space_file, laid_out, recipe, subject, *images_of, options, how)
    path = out if out is not None else None if how.results is None else named_after(Path(how.results), settings)
    run = None if path is None else RunDir(path, settings, how.resume)
    return SearchPlan(
        budget=budget,
        limits=limits,
        goal=goal,
        recipe=recipe,
        space=laid_out,
        subject=subject,
        images=divided,
        widths=widths,
        reference=reference,
        coverage=covered,
        options=options,
        how=how,
        run=run,
    )


def _subject(model: nn.Module | str | None, calibration: Tensor, options: SearchOptions, how: RunOptions) -> Subject:
    subject = Subject.of(model, how.device, calibration, options.crop_pct, options.task, data_config=options.data_config)
    return subject.scaled(calibration).judged_by(options.loss, calibration)


def _check_patches(options: SearchOptions, subject: Subject, target: str | None) -> None:
    if options.loss is not None:
        raise PmqError("patches are given bits by the task's own figure; search with a loss of your own without patches")
    assert options.patches is not None
    check_possible(options.patches, subject.inventory, target)


def _goal(budget: Budget, space: Space, subject: Subject, options: SearchOptions) -> Goal | None:
    return None if budget.agreement is None else Goal.of(budget, space, subject.task, options.patches, options.prune)
