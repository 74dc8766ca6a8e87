"""The steps of ``pmq.rank``: plan the comparison, run the metric benchmark, and write its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from pmq.core import Budget, Limits, PmqError
from pmq.core.coverage import check_coverage, coverage
from pmq.core.files import write_csv
from pmq.core.recipe import Recipe, find_recipe
from pmq.core.rundir import RunDir
from pmq.core.spec import read_bits
from pmq.cost import CostModel
from pmq.evaluation import Evaluator
from pmq.metrics import METRICS, Probe
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.allocation import plan_allocation
from pmq.pipeline.images import gather_images
from pmq.pipeline.measure import check_quantizers
from pmq.pipeline.metric_benchmark import MetricBenchmark
from pmq.pipeline.search.budget import resolve_budget
from pmq.pipeline.subject import Subject
from pmq.quant import images_sha256, prepare

#: the metrics compared by default; ``name@w4a4`` measures around uniform W4A4 instead of FP32
DEFAULT_METRICS = (
    *("fisher_shrunk", "fisher_shrunk@w4a4", "fisher", "fisher_elementwise", "gradient@w4a4", "hawq", "snip", "sqnr"),
    *("measured", "l2", "superposition"),
)


@dataclass(frozen=True)
class RankSplit:
    """How many images do what in a comparison of metrics; they are taken in this order.

    Attributes:
        n_calibration: images that calibrate quantizers.
        n_probe: images that metrics measure on.
        n_held_out: images that evaluate candidates in the search by rounds.
        n_truth: images on which allocations are simulated to obtain their true error.
    """

    n_calibration: int
    n_probe: int
    n_held_out: int
    n_truth: int

    @property
    def counts(self) -> list[int]:
        """The four counts in order."""
        return [self.n_calibration, self.n_probe, self.n_held_out, self.n_truth]


@dataclass
class Ranks:
    """Result of a comparison of metrics.

    Attributes:
        summary: a row for each metric: ``tau`` with its interval over all budgets, the same at one budget, ``seconds``,
            ``passes`` (seconds divided by those of an FP32 forward pass over the same images), and for each budget ``kl`` and
            ``agreement`` (percent) of the metric's own optimum, in columns such as ``kl 4bit``; baselines have optima alone.
        allocations: a row for each random allocation: costs, ``kl``, ``agreement`` and the prediction of each metric.
        default: row of the metric that searches use, with its rounds.
    """

    summary: pd.DataFrame
    allocations: pd.DataFrame
    default: str


@dataclass(frozen=True)
class RankPlan:
    """Everything that the steps of a comparison need.

    Attributes:
        metrics: names of metrics, each possibly with the shorthand that it measures around.
        subject: the FP32 model with its components.
        space: search space of the random allocations and the optima.
        recipe: recipe by which the model is calibrated.
        limits: cost limits of each budget.
        one_budget: the budget at which all random allocations cost the same, with its limits.
        images: images ``(N, C, H, W)`` of each part of the split.
        run: run directory, or ``None`` if nothing is written.
    """

    metrics: tuple[str, ...]
    subject: Subject
    space: Space
    recipe: Recipe
    limits: dict[str, Limits]
    one_budget: tuple[str, Limits]
    images: tuple[Tensor, ...]
    run: RunDir | None


def plan_rank(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    metrics: Sequence[str],
    *,
    budgets: Sequence[str],
    one_budget: str,
    n_random: int,
    space: str | SpaceFile,
    recipe: str,
    split: RankSplit,
    seed: int,
    device: str | None,
    task: str,
    partial: bool,
    out: Path | str | None,
    resume: bool,
) -> RankPlan:
    """Read and check everything that a comparison needs; see :func:`pmq.rank` for the arguments.

    Raises:
        PmqError: an input is wrong; the message names it in one line.
    """
    for name in metrics:  # unknown names are reported before any work
        metric, _, around = name.partition("@")
        METRICS.check(metric)
        if around:
            read_bits(around)
    chosen_recipe, n_images = find_recipe(recipe), sum(split.counts)
    gathered = gather_images(images, n_images)
    if len(gathered) < n_images:
        raise PmqError(f"{len(gathered)} images are fewer than the {n_images} needed; lower `n_truth` or `n_held_out`")
    parts = gathered.split(split.counts)
    space_file = read_space(space)
    whole, norms = space_file.operators is not None, space_file.norms_written_out
    subject = Subject.of(model, device, parts[0], task=task, whole=whole, norms=norms).scaled(parts[0])
    searched = Space(space_file, subject.inventory, chosen_recipe.estimator)
    check_quantizers(searched)
    check_coverage(coverage(subject.inventory, searched.choices), partial)
    *limits, one = [(text, resolve_budget(Budget.parse(text), searched)) for text in (*budgets, one_budget)]
    run = None
    if out is not None:
        settings: dict[str, Any] = {"model": subject.info.model_dump(), "space": searched.file.model_dump(exclude_none=True)}
        settings |= {"recipe": chosen_recipe.model_dump(), "images": images_sha256(gathered), "divided": split.counts}
        run = RunDir(out, settings | {"seed": seed, "count": n_random, "one_budget": one_budget}, resume)
    return RankPlan(
        metrics=tuple(metrics),
        subject=subject,
        space=searched,
        recipe=chosen_recipe,
        limits=dict(limits),
        one_budget=one,
        images=parts,
        run=run,
    )


def benchmark_metrics(plan: RankPlan, n_random: int, batch_size: int, seed: int) -> MetricBenchmark:
    """Simulate random allocations, then run every metric, the search by rounds and the baselines against them."""
    subject, (calibration, probed, evaluated, unseen) = plan.subject, plan.images
    prepared = prepare(subject.model, subject.inventory, calibration, plan.recipe, seed, task=subject.task)
    with prepared.simulator() as simulator:
        simulator.prepare(plan.space.choices)
        benchmark = MetricBenchmark(
            plan.space,
            plan.limits,
            plan.one_budget,
            Probe(simulator, probed, subject.task, {}, batch_size, seed, keep_outputs=True),
            Evaluator(simulator, evaluated, subject.task, batch_size),
            Evaluator(simulator, unseen, subject.task, batch_size),
            plan.run,
        )
        benchmark.draw(n_random, seed)
        for name in plan.metrics:
            benchmark.enter(name)
        benchmark.enter_rounds()
        benchmark.enter_baselines(seed)
    return benchmark


def publish_ranks(plan: RankPlan, benchmark: MetricBenchmark) -> Ranks:
    """Return the tables of a benchmark, and write them and each metric's optima where there is a run directory."""
    ranks = Ranks(pd.DataFrame(benchmark.rows).set_index("metric"), benchmark.allocations, benchmark.default)
    if plan.run is not None:
        path, costs = plan.run.path, CostModel(plan.subject.inventory)
        write_csv(path / "rank.csv", ranks.summary.reset_index())
        write_csv(path / "allocations.csv", ranks.allocations)
        for (name, budget), assignment in benchmark.optima.items():
            optimum = plan_allocation(plan.subject.info, costs, assignment, plan.recipe, plan.space.name, budget)
            optimum.save(path / "allocations" / f"{name}-{budget}.json")
    return ranks
