"""How far metrics can be trusted: how they rank allocations, and what they call optimal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from pmq.core import Budget, PmqError
from pmq.core.coverage import check_coverage, coverage
from pmq.core.files import write_csv
from pmq.core.recipe import find_recipe
from pmq.core.rundir import RunDir
from pmq.core.spec import read_bits
from pmq.core.task import AUTO
from pmq.cost import CostModel
from pmq.evaluation import Evaluator
from pmq.metrics import METRICS, Probe
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.allocation import plan_allocation
from pmq.pipeline.images import gather_images
from pmq.pipeline.measure import check_quantizers
from pmq.pipeline.metric_benchmark import MetricBenchmark
from pmq.pipeline.modes import undisturbed
from pmq.pipeline.search.budget import resolve_budget
from pmq.pipeline.subject import CALIB_IMAGES, Subject
from pmq.quant import images_sha256, prepare

#: metrics and the allocation they measure around, where that is not FP32
DEFAULT = (
    *("fisher_shrunk", "fisher_shrunk@w4a4", "fisher", "fisher_elementwise", "gradient@w4a4", "hawq", "snip", "sqnr"),
    *("measured", "l2", "superposition"),
)


@dataclass
class Ranks:
    """What ``rank`` found.

    Attributes:
        summary: a row for each metric: ``tau`` with its interval over all budgets, the same at one budget, ``seconds``,
            ``passes`` (those in forward passes of FP32 over the same images), and for each budget ``kl`` and
            ``agreement`` (percent) of its own optimum, such as ``kl 4bit``; rows of baselines have optima alone.
        allocations: a row for each random allocation: costs, ``kl``, ``agreement`` and what each metric predicts.
        default: row of the metric that searches use, with its rounds.
    """

    summary: pd.DataFrame
    allocations: pd.DataFrame
    default: str


@undisturbed
def rank(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    metrics: Sequence[str] = DEFAULT,
    *,
    budgets: Sequence[str] = ("4bit", "5bit", "6bit"),
    one_budget: str = "4.5bit",
    count: int = 100,
    space: str | SpaceFile = "default",
    recipe: str = "best",
    calib_images: int = CALIB_IMAGES,
    probe_images: int = 48,
    held_out: int = 128,
    truth_images: int = 256,
    batch_size: int = 32,
    seed: int = 0,
    device: str | None = None,
    task: str = AUTO,
    partial: bool = False,
    out: Path | str | None = None,
    resume: bool = False,
) -> Ranks:
    """Compare metrics with the truth, on images that none of them has seen.

    Args:
        model: see :func:`pmq.search`.
        images: the first ``calib_images`` calibrate, the next ``probe_images`` are what metrics look at, ``held_out`` judge
            candidates in rounds, and ``truth_images`` tell the truth.
        metrics: names; ``fisher@w4a4`` measures around W4A4, without it is around FP32.
        budgets: at which each metric's own optimum is simulated.
        one_budget: at which random allocations are compared that all cost the same.
        count: random allocations over all budgets, and as many at one.
        space: see :func:`pmq.search`.
        recipe: see :func:`pmq.search`.
        calib_images: see ``images``.
        probe_images: see ``images``.
        held_out: see ``images``.
        truth_images: see ``images``.
        batch_size: images at once.
        seed: of every random draw.
        device: where to run.
        task: what outputs mean: a name of :class:`pmq.core.task.Task`; ``auto``
            goes by their number.
        partial: go on though less than half of the model can be quantized.
        out: folder to write figures' data and allocations to, and to resume from.
        resume: go on with a killed run.

    Raises:
        PmqError: bad input, told in one line.

    Example:
        >>> import torch, pmq
        >>> few = {"calib_images": 4, "probe_images": 4, "held_out": 8, "truth_images": 8, "count": 6}
        >>> budgets = {"budgets": ("w6a8",), "one_budget": "w6a8"}
        >>> found = pmq.rank(None, torch.randn(24, 1, 28, 28), ("fisher",), space="w4a8", recipe="fast", **budgets, **few)
        >>> bool(found.summary.loc["fisher", "seconds"] > 0)
        True
    """
    for name in metrics:  # wrong names are told before any work
        metric, _, around = name.partition("@")
        METRICS[metric]
        if around:
            read_bits(around)
    how = find_recipe(recipe)
    needed = [calib_images, probe_images, held_out, truth_images]
    gathered = gather_images(images, sum(needed))
    if len(gathered) < sum(needed):
        raise PmqError(f"{len(gathered)} images are fewer than the {sum(needed)} asked for; lower --truth-images or --held-out")
    calib, probed, evaluated, unseen = gathered.split(needed)
    subject = Subject.of(model, device, calib, task=task).scaled(calib)
    laid_out = Space(space if isinstance(space, SpaceFile) else read_space(space), subject.inventory, how.estimator)
    check_quantizers(laid_out)
    check_coverage(coverage(subject.inventory, laid_out.choices), partial)
    *limits, one = [(text, resolve_budget(Budget.parse(text), laid_out)) for text in (*budgets, one_budget)]
    run = None
    if out is not None:
        settings: dict[str, Any] = {"model": subject.info.model_dump(), "space": laid_out.file.model_dump(exclude_none=True)}
        settings |= {"recipe": how.model_dump(), "images": images_sha256(gathered), "divided": needed, "seed": seed}
        run = RunDir(out, settings | {"count": count, "one_budget": one_budget}, resume)
    prepared = prepare(subject.model, subject.inventory, calib, how, seed, task=subject.task)
    with prepared.simulator() as simulator:
        simulator.prepare(laid_out.choices)
        contest = MetricBenchmark(
            laid_out,
            dict(limits),
            one,
            Probe(simulator, probed, subject.task, {}, batch_size, seed, keep_outputs=True),
            Evaluator(simulator, evaluated, subject.task, batch_size),
            Evaluator(simulator, unseen, subject.task, batch_size),
            run,
        )
        contest.draw(count, seed)
        for name in metrics:
            contest.enter(name)
        contest.enter_rounds()
        contest.enter_baselines(seed)
    ranks = Ranks(pd.DataFrame(contest.rows).set_index("metric"), contest.allocations, contest.default)
    if run is not None:
        write_csv(run.path / "rank.csv", ranks.summary.reset_index())
        write_csv(run.path / "allocations.csv", ranks.allocations)
        for (name, budget), assignment in contest.optima.items():
            plan = plan_allocation(subject.info, CostModel(subject.inventory), assignment, how, laid_out.name, budget)
            plan.save(run.path / "allocations" / f"{name}-{budget}.json")
    return ranks
