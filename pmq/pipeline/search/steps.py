"""The steps of a search after it is planned: calibrate, go round, lay out the front, choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from pmq.core import Allocation, Limits
from pmq.core.choice import Decisions
from pmq.evaluation import Evaluator
from pmq.metrics import Probe
from pmq.pipeline.allocation import make_allocation
from pmq.pipeline.patches.reallocator import SCORE, Reallocator
from pmq.pipeline.search.candidate_pool import CandidatePool
from pmq.pipeline.search.clock import Clock
from pmq.pipeline.search.explore import Archive, compared_candidates, explore, lay_out
from pmq.pipeline.search.finalists import Finished, finish
from pmq.pipeline.search.loop import Rounds
from pmq.pipeline.search.plan import SearchPlan
from pmq.pipeline.search.stopping import StoppingCriteria
from pmq.pipeline.search.width_masks import WidthMasks, measure_widths
from pmq.pipeline.search.width_search import Whole
from pmq.pipeline.subject import Subject
from pmq.quant import Prepared, prepare


@dataclass(frozen=True)
class Explored:
    """What was looked at.

    Attributes:
        loop: the rounds, with the table that they measured.
        archive: every genome looked at.
        points: the same as a table.
        judge: with all held-out images.
        effort: what was spent.
        limits: the budget in figures.
    """

    loop: Rounds
    archive: Archive
    points: pd.DataFrame
    evaluator: Evaluator
    stopping: StoppingCriteria
    limits: Limits


@dataclass(frozen=True)
class Chosen:
    """The chosen point carried out.

    Attributes:
        subject: its model, which may be narrower than the one that was searched.
        allocation: with its tensors, its predicted error, and what the judge says.
        limits: the budget in figures; of a budget of agreement the limits that were found.
    """

    subject: Subject
    allocation: Allocation
    limits: Limits


def calibrate(plan: SearchPlan) -> Prepared:
    """The model rewritten by the recipe's transforms, and calibrated."""
    subject, images = plan.subject, plan.images
    if plan.widths is not None:
        return plan.widths.prepared(len(images.held_out))
    calibration, seed = images.calibration, plan.how.seed
    return prepare(subject.model, subject.inventory, calibration, plan.recipe, seed, len(images.held_out), subject.task)


def explore_space(plan: SearchPlan, prepared: Prepared, clock: Clock) -> Explored:
    """Measure, solve and simulate in rounds; then lay out the front."""
    options, how, subject = plan.options, plan.how, plan.subject
    stopping = StoppingCriteria(options.time_limit, options.max_evals, options.n_rounds)
    with prepared.simulator(WidthMasks(prepared, plan.widths.widths) if plan.widths else None) as simulator:
        evaluator = Evaluator(simulator, plan.images.evaluated, subject.task, how.batch_size, plan.reference)
        pool = CandidatePool(evaluator, plan.space, plan.run, stopping)
        probe = Probe(simulator, plan.images.probed, subject.task, {}, how.batch_size, how.seed)
        widths = measure_widths(probe, plan.space, plan.run) if plan.widths else None
        loop = Rounds(probe, options.metric, plan.space, plan.limits, pool, plan.run, widths)
        loop.run(compared_candidates(plan.space, loop.tables, plan.limits))
        clock.lap("rounds")
        limits = plan.limits if plan.goal is None else plan.goal.approach(loop)
        archive = explore(plan.space, loop.tables, limits, pool, how.seed)
        points = lay_out(archive, pool, plan.space, limits, plan.run)
        clock.lap("front")
        return Explored(loop, archive, points, pool.evaluator.extended(plan.images.probed, how.batch_size), stopping, limits)


def choose(plan: SearchPlan, prepared: Prepared, explored: Explored) -> Chosen:
    """Carry the most promising points out by the whole recipe, and take the best; its row is marked in the points."""
    points, archive = explored.points, explored.archive
    models = plan.widths or Whole(plan.subject, prepared)
    learned: Path | None = None if plan.path is None else plan.path / "learned"

    def assignment_of(index: int) -> Decisions:
        return plan.space.decided(archive.genomes[points.loc[index, "genome_id"]])

    def finished_within(within: Limits, hurry: bool) -> Finished:
        if plan.goal is not None:
            points["within"] = [within.allow(*row) for row in points[list(archive.names)].itertuples(index=False)]
        hurry = hurry or explored.stopping.interrupted
        return finish(models, plan.recipe, points, assignment_of, explored.evaluator, learned, hurry)

    limits = explored.limits
    if plan.goal is None:
        index, subject, quantized, metrics = finished_within(limits, hurry=False)
    else:
        limits, (index, subject, quantized, metrics) = plan.goal.reached(finished_within)
    points["chosen"] = points.index == index
    metrics = {"predicted_error": points.loc[index, "predicted_error"]} | metrics
    info, latency = prepared.calibration.info, plan.options.latency
    allocation = make_allocation(subject, quantized, info, plan.space.name, plan.budget.text, limits, metrics, latency)
    return Chosen(subject, allocation, limits)


def reallocate_chosen(plan: SearchPlan, allocation: Allocation, model: nn.Module | str | None) -> Allocation:
    """The chosen allocation with bits of single patches, within the same bit operations; ``model`` is what the user gave."""
    options = plan.options
    assert options.patches is not None
    reallocator = Reallocator(model, allocation, plan.images.all, options.crop_pct, plan.how.seed, options.latency)
    return reallocator.allocate(options.patches, 1.0, SCORE)
