"""The verb ``search``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pmq.core import Budget
from pmq.core.memory_limit import limited_memory, report_excess
from pmq.evaluation import executor_of
from pmq.optimize import SpaceFile
from pmq.pipeline.search.clock import Clock
from pmq.pipeline.search.options import DataSplit, RunOptions, SearchOptions
from pmq.pipeline.search.plan import plan_search
from pmq.pipeline.search.result import SearchResult, result_of
from pmq.pipeline.search.run_writer import publish
from pmq.pipeline.search.steps import calibrate, choose, explore_space, reallocate_chosen
from pmq.pipeline.torch_modes import undisturbed


@undisturbed
def search(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    budget: str | Budget = "4bit",
    *,
    space: str | SpaceFile = "default",
    out: Path | str | None = None,
    options: SearchOptions = SearchOptions(),
    split: DataSplit = DataSplit(),
    run: RunOptions = RunOptions(),
) -> SearchResult:
    """Search the Pareto front of bit-width allocations of a model, and choose one within a budget.

    Args:
        model: a module (left unchanged), a timm name, or ``None`` for the embedded model.
        images: preprocessed images ``(N, C, H, W)`` or batches of them; no labels are needed.
        budget: see :mod:`pmq.core.budget`.
        space: name or path of a search space, or a space already read.
        out: run directory to write. Without it, and without ``run.results``, nothing is written.
        options: recipe, metric, patches, widths, constraints, and stopping criteria.
        split: how many images calibrate, and how many measure sensitivity and evaluate candidates.
        run: seed, batch size, device, workers of a cluster, and whether a killed run is resumed.

    Returns:
        The chosen allocation, the front with all explored points, and the sensitivity table, see :class:`SearchResult`.

    Raises:
        PmqError: an input is wrong; the message names it in one line.

    Example:
        >>> import torch, pmq
        >>> result = pmq.search(None, torch.randn(12, 1, 28, 28), "w4a8", space="w4a8")  # the embedded model
        >>> result.allocation.components["blocks.0.mlp.fc1.weight"].bits
        4
    """
    clock = Clock()
    with limited_memory(run.memory), executor_of(run.ray) as executor:
        plan = plan_search(model, images, budget, space, out, options, split, run)
        prepared = calibrate(plan)
        clock.lap("calibration")
        explored = explore_space(plan, prepared, executor, clock)
        chosen = choose(plan, prepared, explored, executor)
        clock.lap("finish")
    with_patches = None
    if options.patches is not None:
        with_patches = reallocate_chosen(plan, chosen.allocation, model)
        clock.lap("patches")
    report_excess(run.memory)
    result = result_of(plan, explored, chosen, prepared.rewritings, with_patches, clock)
    publish(plan, explored, chosen, result, model)
    return result
