"""The main job: from a model, images and a budget to the front and an allocation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from pmq.api.reallocate import reallocate
from pmq.core import Assignment, Budget, Limits
from pmq.core.allocation import pmq_version
from pmq.core.choice import Kept
from pmq.core.coverage import check_coverage, coverage
from pmq.core.errors import PmqError
from pmq.core.files import check_target
from pmq.core.own_files import MANIFEST
from pmq.core.paths import architecture, named_path
from pmq.core.recipe import Recipe, find_recipe
from pmq.core.rundir import RunDir
from pmq.core.task import AUTO, Loss
from pmq.cost import LatencyTable
from pmq.evaluation import Judge
from pmq.metrics import METRICS, Probe
from pmq.optimize import Space, SpaceFile, read_space
from pmq.optimize.wishes import Wishes
from pmq.pipeline.allocation import make_allocation
from pmq.pipeline.images import gather_images
from pmq.pipeline.measure import check_quantizers
from pmq.pipeline.modes import undisturbed
from pmq.pipeline.patches.figures import draw_patches
from pmq.pipeline.patches.map_size import map_bytes
from pmq.pipeline.patches.reallocator import check_possible
from pmq.pipeline.search.agreement import Goal
from pmq.pipeline.search.budget import resolve_budget, tell_limits
from pmq.pipeline.search.clock import Clock
from pmq.pipeline.search.evaluator import Trials
from pmq.pipeline.search.explore import compared_candidates, explore, lay_out, prediction_quality
from pmq.pipeline.search.finalists import Finished, finish
from pmq.pipeline.search.loop import Rounds
from pmq.pipeline.search.result import SearchResult
from pmq.pipeline.search.run_writer import write_run
from pmq.pipeline.search.stopping import ROUNDS, Effort
from pmq.pipeline.search.width_masks import Cuts, measure_widths
from pmq.pipeline.search.width_options import groups_of
from pmq.pipeline.search.width_search import Joint, Whole
from pmq.pipeline.subject import CALIB_IMAGES, HELD_OUT, Subject, divide_images, take_in
from pmq.pruning import plan_of
from pmq.quant import images_sha256, prepare
from pmq.quant.own_loss import loss_name
from pmq.reporting.page import write_page


@undisturbed
def search(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    budget: str | Budget = "4bit",
    *,
    space: str | SpaceFile = "default",
    recipe: str | Recipe = "best",
    reconstruct: bool = False,
    patches: str | None = None,
    prune: bool = False,
    wishes: Wishes | None = None,
    metric_name: str = "fisher_shrunk",
    time_limit: float | None = None,
    max_evals: int | None = None,
    rounds: int = ROUNDS,
    calib_images: int = CALIB_IMAGES,
    held_out: int = HELD_OUT,
    latency: LatencyTable | None = None,
    task: str = AUTO,
    loss: Loss | None = None,
    partial: bool = False,
    reference: nn.Module | None = None,
    batch_size: int = 32,
    seed: int = 0,
    device: str | torch.device | None = None,
    crop_pct: float | None = None,
    data_config: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    results: Path | str | None = None,
    resume: bool = False,
    command: dict[str, Any] | None = None,
) -> SearchResult:
    """Search the bits of a model.

    Args:
        model: a timm-built module (left as it is), or timm's name, or ``None`` for the embedded one.
        images: ``(B, C, H, W)`` or batches of them, preprocessed; labels are not needed. The first ``calib_images``
            calibrate; of the next ``held_out`` some measure sensitivity and the rest judge candidates.
        budget: see :mod:`pmq.core.budget`.
        space: name or path of a search space.
        recipe: how the model is quantized: ``minmax``, ``percentile``, ``mse``, ``fast`` or ``best``. Tables and candidates
            quantize each component by itself; the steps of ``best`` that go layer by layer finish the best of them.
        reconstruct: learn rounding and scales of the chosen allocation, block by block.
        patches: give each patch bits of its own in the chosen allocation, ``static`` or ``dynamic`` ones
            (:func:`pmq.reallocate`); the budget counts the map.
        prune: decide beside bits how much is kept of each block: hidden channels, the rank of heads, and heads.
        wishes: what must be obeyed beside: bits to keep, layers to leave out, the fewest and most bits.
        metric_name: sensitivity metric, see :mod:`pmq.metrics`.
        time_limit: seconds after which no round begins and no further candidate is simulated.
        max_evals: allocations to simulate in rounds.
        rounds: at most; fewer if nothing is gained.
        calib_images: see ``images``.
        held_out: see ``images``.
        latency: measured milliseconds of the space's choices (:func:`pmq.profile`), for ``latency=12ms``.
        task: what outputs mean: a name of :class:`pmq.core.task.Task`; ``auto``
            goes by their number.
        loss: ``loss(reference, output)``, what errors are measured by in place of the task's own figure: outputs ``(B, ...)``
            of FP32 and of a candidate -> ``(B,)``, twice differentiable and least where the two are the same.
        partial: go on though less than half of the model can be quantized.
        reference: FP32 model that candidates are to agree with, where that is not ``model``: that before pruning.
        batch_size: images at once.
        seed: of every random draw.
        device: where to run.
        crop_pct: how the images were cropped, for the record, where the model's data config says otherwise.
        data_config: how images were prepared, for the record, where the model does not say, or otherwise: ``mean``, ``std``,
            ``interpolation``, ``crop_pct``.
        out: run directory to write; ``results`` is a folder in which one is named after model and budget.
        results: see ``out``. Without either nothing is written.
        resume: go on with a killed run.
        command: what the manifest should remember of how the run was started.

    Raises:
        PmqError: bad input, told in one line.

    Example:
        >>> import torch, pmq
        >>> result = pmq.search(None, torch.randn(12, 1, 28, 28), "w4a8", space="w4a8")  # the embedded model
        >>> result.allocation.components["blocks.0.mlp.fc1.weight"].bits
        4
    """
    clock = Clock()
    budget = budget if isinstance(budget, Budget) else Budget.parse(budget)
    METRICS[metric_name]  # wrong names are told before any work
    out = None if out is None else check_target(named_path(out, "run directory") / MANIFEST).parent
    how = find_recipe(recipe, reconstruct)
    space_file = space if isinstance(space, SpaceFile) else read_space(space)
    gathered = gather_images(images, calib_images + held_out)
    calib, probed, judged = divide_images(gathered, calib_images, held_out)
    others = torch.cat([probed, judged])
    subject = Subject.of(model, device, calib, crop_pct, task, data_config=data_config).scaled(calib).judged_by(loss, calib)
    space_file = space_file if wishes is None else wishes.applied(space_file, subject.inventory)
    groups = groups_of(space_file, None if latency is None else latency.target)
    reference = None if reference is None else take_in(reference, device, calib)
    joint = Joint(subject, calib, how, seed, groups) if prune else None
    laid_out = Space(space_file, subject.inventory, how.estimator, latency, joint.widths if joint else ())
    check_quantizers(laid_out)
    if patches is not None:
        if loss is not None:
            raise PmqError("patches are given bits by the task's own figure; search with a loss of your own without patches")
        check_possible(patches, subject.inventory, None if latency is None else latency.target)
    plan = plan_of(subject.module)
    goal = None if budget.agreement is None else Goal.of(budget, laid_out, subject.task, patches, prune)
    limits = goal.guess if goal else resolve_budget(budget, laid_out, 0 if patches is None else map_bytes(laid_out, patches))
    if wishes is not None and wishes.any:
        tell_limits(budget, Limits() if goal else limits, wishes.told())
    covered = coverage(subject.inventory, laid_out.choices)
    check_coverage(covered, partial)
    settings = {
        "model": subject.info.model_dump(),
        "budget": budget.text,
        "space": space_file.model_dump(exclude_none=True),
        "recipe": how.model_dump(),
        "patches": patches,
        "task": subject.task.name,
        "pruning": plan and plan.model_dump(),
        "widths": [[w.name, [Kept(unit=u).label for u in w.options]] for w in laid_out.widths] or None,
        "metric": metric_name,
        "latency": latency and latency.sha256,
        "calibration": {"sha256": images_sha256(calib), "n_images": len(calib)},
        "held_out": {"sha256": images_sha256(others), "n_images": len(others)},
        "seed": seed,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "device": next(subject.model.parameters()).device.type,
        "versions": {"pmq": pmq_version(), "torch": torch.__version__},
    }
    if loss is not None:
        settings["loss"] = loss_name(loss)
    path = out if out is not None else _named(Path(results), settings) if results is not None else None
    run = None if path is None else RunDir(path, settings, resume)
    if joint is not None:
        prepared = joint.prepared(len(others))
    else:
        prepared = prepare(subject.model, subject.inventory, calib, how, seed, len(others), subject.task)
    models = joint or Whole(subject, prepared)
    clock.lap("calibration")
    effort = Effort(time_limit, max_evals, rounds)
    with prepared.simulator(Cuts(prepared, joint.widths) if joint else None) as simulator:
        trials = Trials(Judge(simulator, judged, subject.task, batch_size, reference), laid_out, run, effort)
        probe = Probe(simulator, probed, subject.task, {}, batch_size, seed)
        widths = measure_widths(probe, laid_out, run) if joint else None
        going = Rounds(probe, metric_name, laid_out, limits, trials, run, widths)
        going.run(compared_candidates(laid_out, going.tables, limits))
        clock.lap("rounds")
        if goal is not None:
            limits = goal.approach(going)
        archive = explore(laid_out, going.tables, limits, trials, seed)
        points = lay_out(archive, trials, laid_out, limits, run)
        clock.lap("front")
        judge = trials.judge.extended(probed, batch_size)

    def assignment_of(index: int) -> Assignment:
        return laid_out.assignment(archive.genomes[points.loc[index, "genome_id"]])

    learned = None if path is None else path / "learned"

    def finished_within(within: Limits, hurry: bool) -> Finished:
        if goal is not None:
            points["within"] = [within.allow(*row) for row in points[list(archive.names)].itertuples(index=False)]
        return finish(models, how, points, assignment_of, judge, learned, hurry or effort.interrupted)

    if goal is None:
        index, shaped, quantized, finished = finished_within(limits, hurry=False)
    else:
        limits, (index, shaped, quantized, finished) = goal.reached(finished_within)
    points["chosen"] = points.index == index
    clock.lap("finish")
    metrics = {"predicted_error": points.loc[index, "predicted_error"]} | finished
    info = prepared.calibration.info
    allocation = make_allocation(shaped, quantized, info, laid_out.name, budget.text, limits, metrics, latency)
    layers = None
    if patches is not None:
        layers, allocation = (
            allocation,
            reallocate(model, allocation, gathered, patches, latency=latency, crop_pct=crop_pct, seed=seed),
        )
        clock.lap("patches")
    history = pd.DataFrame([asdict(r) for r in going.history])
    ranking = prediction_quality(points, subject.task, limits)
    seconds = clock.done(going.history)
    result = SearchResult(
        allocation, points, going.table, limits, history, ranking, path, seconds, layers, prepared.rewritings, covered
    )
    if run is not None:
        write_run(run, result, subject, shaped, laid_out, archive, command or {})
        if patches is not None:
            draw_patches(model, allocation, calib, run.path / "plots", crop_pct)
        write_page([run.path])
    return result


def _named(results: Path, settings: dict[str, Any]) -> Path:
    """Name a run after model and budget, and by what else determines its result."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    budget = settings["budget"].replace(",", "_").replace(">", "")
    return results / architecture(settings["model"]["name"]) / f"{budget}-{digest}"
