"""The first step of a search: read and check the inputs, and lay the search space over the model, before any measurement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
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
from pmq.pipeline.image_split import divide_images
from pmq.pipeline.images import gather_images
from pmq.pipeline.intake import take_in
from pmq.pipeline.measure import check_quantizers
from pmq.pipeline.patches.map_size import map_bytes
from pmq.pipeline.search.agreement import Goal
from pmq.pipeline.search.budget import report_limits, resolve_budget
from pmq.pipeline.search.checks import check_choices, check_patches
from pmq.pipeline.search.merging import MergingChoice
from pmq.pipeline.search.options import DataSplit, RunOptions, SearchOptions
from pmq.pipeline.search.settings import named_after, search_settings
from pmq.pipeline.search.width_options import groups_of
from pmq.pipeline.search.width_search import Joint
from pmq.pipeline.subject import Subject


@dataclass(frozen=True)
class SearchImages:
    """The images of a search, each ``(N, C, H, W)``.

    Attributes:
        all: all images.
        calibration: images that calibrate.
        probed: images that measure sensitivity.
        evaluated: images that evaluate candidates.
    """

    all: Tensor
    calibration: Tensor
    probed: Tensor
    evaluated: Tensor

    @property
    def held_out(self) -> Tensor:
        """The probed and the evaluated images, which follow one another."""
        first = len(self.calibration)
        return self.all[first : first + len(self.probed) + len(self.evaluated)]


@dataclass(frozen=True)
class SearchPlan:
    """Everything that the steps of a search need.

    Attributes:
        budget: the budget as given.
        limits: cost limits of the budget; of a budget of agreement, the limits at which the search measures first.
        goal: the required agreement of a budget of agreement, otherwise ``None``.
        recipe: recipe that quantizes the model.
        space: search space laid over the model's components.
        subject: the captured model with its components.
        images: the images and what each of them does.
        widths: the model whose widths are searched too, or ``None``.
        reference: FP32 model that candidates are compared with, where it is another one.
        coverage: share of the model that is searched.
        options: options of the search.
        run_options: options of the run.
        run: run directory, or ``None`` if nothing is written.
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
    run_options: RunOptions
    run: RunDir | None

    @property
    def path(self) -> Path | None:
        """Path of the run directory, or ``None``."""
        return None if self.run is None else self.run.path


def plan_search(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    budget: str | Budget,
    space: str | SpaceFile,
    out: Path | str | None,
    options: SearchOptions,
    split: DataSplit,
    run_options: RunOptions,
) -> SearchPlan:
    """Read and check the inputs of a search; see :func:`pmq.search` for the arguments.

    Raises:
        PmqError: an input is wrong; the message names it in one line.
    """
    budget = budget if isinstance(budget, Budget) else Budget.parse(budget)
    METRICS.check(options.metric)  # an unknown name is reported before any work
    out = None if out is None else check_target(named_path(out, "run directory") / MANIFEST).parent
    recipe = find_recipe(options.recipe, options.reconstruct)
    space_file = read_space(space)
    gathered = gather_images(images, split.n_calibration + split.n_held_out)
    divided = SearchImages(gathered, *divide_images(gathered, split.n_calibration, split.n_held_out))
    subject = _subject(model, divided.calibration, options, run_options, space_file)
    constraints, target = options.constraints, None if options.latency is None else options.latency.target
    space_file = space_file if constraints is None else constraints.applied(space_file, subject.inventory)
    original = subject.module if options.merge and options.reference is None else options.reference
    reference = None if original is None else take_in(original, run_options.device, divided.calibration)
    groups = groups_of(space_file, target)
    widths = Joint(subject, divided.calibration, recipe, run_options.seed, groups) if options.prune else None
    searched_space = Space(space_file, subject.inventory, recipe.estimator, options.latency, widths.widths if widths else ())
    check_quantizers(searched_space)
    check_choices(searched_space)
    if options.patches is not None:
        check_patches(options, subject, target)
    goal = _goal(budget, searched_space, subject, options)
    reserved = 0 if options.patches is None else map_bytes(searched_space, options.patches)
    merging = (
        MergingChoice(subject, searched_space, recipe, divided.calibration, divided.probed, options, run_options)
        if options.merge
        else None
    )
    limits = goal.guess if goal else Limits() if merging else resolve_budget(budget, searched_space, reserved)
    if constraints is not None and constraints.any:
        report_limits(budget, Limits() if goal else limits, constraints.describe())
    covered = coverage(subject.inventory, searched_space.choices)
    check_coverage(covered, options.partial)
    split_images = (divided.calibration, divided.held_out)
    settings = search_settings(budget, space_file, searched_space, recipe, subject, *split_images, options, run_options)
    path = out if out is not None else None if run_options.results is None else named_after(Path(run_options.results), settings)
    run = None if path is None else RunDir(path, settings, run_options.resume)
    if merging is not None:
        merged = merging.choose(budget, reserved, run)
        subject, limits, latency = merged.subject, merged.limits, merged.space.latency
        widths = None if widths is None else widths.with_subject(subject)
        searched_space = Space(space_file, subject.inventory, recipe.estimator, latency, widths.widths if widths else ())
        options = replace(options, latency=latency)
    return SearchPlan(
        budget=budget,
        limits=limits,
        goal=goal,
        recipe=recipe,
        space=searched_space,
        subject=subject,
        images=divided,
        widths=widths,
        reference=reference,
        coverage=covered,
        options=options,
        run_options=run_options,
        run=run,
    )


def _subject(
    model: nn.Module | str | None, calibration: Tensor, options: SearchOptions, run_options: RunOptions, space: SpaceFile
) -> Subject:
    device, config = run_options.device, options.data_config
    whole, norms = space.operators is not None, space.norms_written_out
    if whole and (options.prune or options.merge or options.patches is not None):
        raise PmqError("only bits are searched where every tensor has bits; leave `prune`, `merge` and `patches` out")
    subject = Subject.of(model, device, calibration, options.crop_pct, options.task, data_config=config, whole=whole, norms=norms)
    return subject.scaled(calibration).with_loss(options.loss, calibration)


def _goal(budget: Budget, space: Space, subject: Subject, options: SearchOptions) -> Goal | None:
    if budget.agreement is not None and options.merge:
        raise PmqError("tokens are merged to meet a cost, not an agreement; search with a `budget` such as latency=10ms")
    return None if budget.agreement is None else Goal.of(budget, space, subject.task, options.patches, options.prune)
