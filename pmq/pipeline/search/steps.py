"""The steps of a search after its plan: calibrate, explore the space in rounds, and choose an allocation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from pmq.core import Allocation, Limits
from pmq.core.choice import Decisions
from pmq.evaluation import Evaluator
from pmq.evaluation.executor import Executor
from pmq.metrics import Probe
from pmq.pipeline.allocation import make_allocation
from pmq.pipeline.patches.kinds import SCORE
from pmq.pipeline.patches.reallocator import Reallocator
from pmq.pipeline.search.candidate_pool import CandidatePool
from pmq.pipeline.search.clock import Clock
from pmq.pipeline.search.explore import Archive, compared_candidates, explore, lay_out, references
from pmq.pipeline.search.finalists import Finished, finish
from pmq.pipeline.search.loop import Rounds
from pmq.pipeline.search.plan import SearchPlan
from pmq.pipeline.search.state import SearchState, add_part, spread_state
from pmq.pipeline.search.stopping import StoppingCriteria
from pmq.pipeline.search.width_masks import WidthMasks, measure_widths
from pmq.pipeline.search.width_search import Whole
from pmq.pipeline.subject import Subject
from pmq.quant import Prepared, prepare


@dataclass(frozen=True)
class Explored:
    """The explored space.

    Attributes:
        rounds: the rounds, with the sensitivity table that they measured.
        archive: every explored genome.
        points: the same as a table.
        evaluator: evaluator with all held-out images.
        stopping: the stopping criteria and whether they were met.
        limits: cost limits of the budget.
    """

    rounds: Rounds
    archive: Archive
    points: pd.DataFrame
    evaluator: Evaluator
    stopping: StoppingCriteria
    limits: Limits


@dataclass(frozen=True)
class Chosen:
    """The chosen point as a quantized model.

    Attributes:
        subject: its model, which may be narrower than the searched one.
        allocation: the allocation with its tensors, its predicted error and its metrics.
        limits: cost limits of the budget; of a budget of agreement, the limits of the chosen rung.
    """

    subject: Subject
    allocation: Allocation
    limits: Limits


def calibrate(plan: SearchPlan) -> Prepared:
    """Return the model after the recipe's transforms and calibration."""
    subject, images = plan.subject, plan.images
    if plan.widths is not None:
        return plan.widths.prepared(len(images.held_out))
    calibration, seed = images.calibration, plan.run_options.seed
    return prepare(subject.model, subject.inventory, calibration, plan.recipe, seed, len(images.held_out), subject.task)


def explore_space(plan: SearchPlan, prepared: Prepared, executor: Executor, clock: Clock) -> Explored:
    """Measure, solve and simulate in rounds; then explore the front.

    Sensitivities are measured and candidates simulated by the ``executor``, which receives the state of the search.
    """
    options, run_options, subject = plan.options, plan.run_options, plan.subject
    stopping = StoppingCriteria(options.time_limit, options.max_evals, options.n_rounds)
    with prepared.simulator(WidthMasks(prepared, plan.widths.widths) if plan.widths else None) as simulator:
        evaluator = Evaluator(simulator, plan.images.evaluated, subject.task, run_options.batch_size, plan.reference)
        probe = Probe(simulator, plan.images.probed, subject.task, {}, run_options.batch_size, run_options.seed)
        spread_state(executor, SearchState(simulator, probe, evaluator, prepared), plan.space.choices)
        if executor.n_workers:
            clock.lap("workers")
        pool = CandidatePool(executor, evaluator, plan.space, plan.run, stopping)
        widths = measure_widths(probe, plan.space, plan.run) if plan.widths else None
        rounds = Rounds(probe, options.metric, plan.space, plan.limits, pool, plan.run, widths)
        rounds.run(compared_candidates(plan.space, rounds.tables, plan.limits))
        clock.lap("rounds")
        limits = plan.limits if plan.goal is None else plan.goal.approach(rounds)
        archive = explore(plan.space, rounds.tables, limits, pool, run_options.seed)
        points = lay_out(archive, pool, plan.space, limits)
        clock.lap("front")
        extended = evaluator.extended(plan.images.probed, run_options.batch_size)
        if executor.n_workers:
            executor.share(add_part, extended.parts[-1])
        return Explored(rounds, archive, points, extended, stopping, limits)


def choose(plan: SearchPlan, prepared: Prepared, explored: Explored, executor: Executor) -> Chosen:
    """Quantize the most promising points by the whole recipe and take the best; ``chosen`` marks its row in the points.

    The ``executor`` has the state that :func:`explore_space` gave to it.
    """
    points, archive = explored.points, explored.archive
    models = plan.widths or Whole(plan.subject, prepared)
    learned: Path | None = None if plan.path is None else plan.path / "learned"

    def assignment_of(index: int) -> Decisions:
        genome = points.loc[index, "genome_id"]
        if genome < 0:
            return references(plan.space, explored.limits)[points.loc[index, "source"]]
        return plan.space.decided(archive.genomes[genome])

    def finished_within(within: Limits, hurry: bool) -> Finished:
        if plan.goal is not None:
            points["within"] = [within.allow(*row) for row in points[list(archive.names)].itertuples(index=False)]
        hurry = hurry or explored.stopping.interrupted
        return finish(models, plan.recipe, points, assignment_of, explored.evaluator, executor, learned, hurry)

    limits = explored.limits
    if plan.goal is None:
        index, subject, quantized, metrics = finished_within(limits, hurry=False)
    else:
        limits, (index, subject, quantized, metrics) = plan.goal.reached(finished_within)
    points["chosen"] = points.index == index
    predicted = points.loc[index, "predicted_error"]  # of a uniform allocation outside the space there is none
    metrics = ({} if pd.isna(predicted) else {"predicted_error": predicted}) | metrics
    info, latency = prepared.calibration.info, plan.options.latency
    allocation = make_allocation(subject, quantized, info, plan.space.name, plan.budget.text, limits, metrics, latency)
    return Chosen(subject, allocation, limits)


def reallocate_chosen(plan: SearchPlan, allocation: Allocation, model: nn.Module | str | None) -> Allocation:
    """Return the chosen allocation with bits of single patches, within the same bit operations; ``model`` is the user's model."""
    options = plan.options
    assert options.patches is not None
    reallocator = Reallocator(model, allocation, plan.images.all, options.crop_pct, plan.run_options.seed, options.latency)
    return reallocator.allocate(options.patches, 1.0, SCORE)
