"""The verb ``rank``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pmq.core.task import AUTO
from pmq.optimize import SpaceFile
from pmq.pipeline.image_split import CALIB_IMAGES
from pmq.pipeline.metric_ranks import DEFAULT_METRICS, Ranks, RankSplit, benchmark_metrics, plan_rank, publish_ranks
from pmq.pipeline.torch_modes import undisturbed


@undisturbed
def rank(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    budgets: Sequence[str] = ("4bit", "5bit", "6bit"),
    one_budget: str = "4.5bit",
    n_random: int = 100,
    space: str | SpaceFile = "default",
    recipe: str = "best",
    n_calibration: int = CALIB_IMAGES,
    n_probe: int = 48,
    n_held_out: int = 128,
    n_truth: int = 256,
    batch_size: int = 32,
    seed: int = 0,
    device: str | None = None,
    task: str = AUTO,
    partial: bool = False,
    out: Path | str | None = None,
    resume: bool = False,
) -> Ranks:
    """Compare sensitivity metrics with simulated errors, on images that none of the metrics has seen.

    Args:
        model: see :func:`pmq.search`.
        images: images ``(N, C, H, W)`` or batches of them: the first ``n_calibration`` calibrate, metrics measure on the next
            ``n_probe``, the next ``n_held_out`` evaluate candidates in rounds, and the last ``n_truth`` give the true errors.
        metrics: names of metrics; ``fisher@w4a4`` measures around uniform W4A4, a name alone around FP32.
        budgets: budgets at which each metric's own optimum is simulated.
        one_budget: budget at which random allocations of equal cost are compared.
        n_random: number of random allocations over all budgets, and again at ``one_budget``.
        space: see :func:`pmq.search`.
        recipe: see :func:`pmq.search`.
        n_calibration: see ``images``.
        n_probe: see ``images``.
        n_held_out: see ``images``.
        n_truth: see ``images``.
        batch_size: images in a forward pass.
        seed: seed of every random draw.
        device: device to run on, such as ``cuda``.
        task: meaning of the outputs, a name of :class:`pmq.core.task.Task`; ``auto`` derives it from their number.
        partial: continue although less than half of the model can be quantized.
        out: run directory to write tables and allocations to, and to resume from.
        resume: resume a killed run.

    Returns:
        The tables, see :class:`Ranks`.

    Raises:
        PmqError: an input is wrong; the message names it in one line.

    Example:
        >>> import torch, pmq
        >>> few = {"n_calibration": 4, "n_probe": 4, "n_held_out": 8, "n_truth": 8, "n_random": 6}
        >>> budgets = {"budgets": ("w6a8",), "one_budget": "w6a8"}
        >>> ranks = pmq.rank(None, torch.randn(24, 1, 28, 28), ("fisher",), space="w4a8", recipe="fast", **budgets, **few)
        >>> bool(ranks.summary.loc["fisher", "seconds"] > 0)
        True
    """
    plan = plan_rank(
        model,
        images,
        metrics,
        budgets=budgets,
        one_budget=one_budget,
        n_random=n_random,
        space=space,
        recipe=recipe,
        split=RankSplit(n_calibration, n_probe, n_held_out, n_truth),
        seed=seed,
        device=device,
        task=task,
        partial=partial,
        out=out,
        resume=resume,
    )
    benchmark = benchmark_metrics(plan, n_random, batch_size, seed)
    return publish_ranks(plan, benchmark)
