"""The verb ``prune``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.run_files import CHOSEN
from pmq.core.task import AUTO
from pmq.pipeline.pruning_plan import (
    IMAGES,
    Pruned,
    build_pruned,
    check_request,
    plan_pruning,
    score_channels,
    select_channels,
)
from pmq.pipeline.torch_modes import undisturbed
from pmq.pruning.reconstruction import Reconstruction


@undisturbed
def prune(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    ratio: float = 0.25,
    *,
    importance: str = Reconstruction.name,
    structures: Sequence[str] | None = None,
    scope: str = "uniform",
    ratios: Mapping[str, float] | None = None,
    round_to: int = 8,
    recovery: bool = True,
    n_calibration: int = IMAGES,
    crop_pct: float | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    out: Path | str | None = None,
    task: str = AUTO,
) -> Pruned:
    """Remove the least important channels of a model, and refit the layers that read the remaining ones.

    Args:
        model: a module built by timm (left unchanged), a timm name, or ``None`` for the embedded model.
        images: images ``(N, C, H, W)`` or batches of them, of which the first ``n_calibration`` are read; no labels are needed.
        ratio: share of channels to remove, from 0 to below 1.
        importance: ``reconstruction``, ``magnitude``, ``magnitude_l1``, ``taylor``, ``hessian`` or ``random``.
        structures: what may be removed: ``hidden`` channels of MLPs; of attentions, channels within heads (``width``), the same
            after a rotation that concentrates the signal in few of them (``rank``), or whole ``heads``; ``embedding``, channels
            of the residual stream. Default: ``hidden`` and ``rank`` for ``reconstruction``, ``hidden`` and ``width`` otherwise.
        scope: ``uniform`` removes ``ratio`` of each unit, ``global`` removes it of all units of a kind together.
        ratios: pattern of unit names -> ratio of their own, such as ``{"blocks.0.mlp": 0.5}``.
        round_to: widths are multiples of it, because kernels run those faster.
        recovery: refit the layers that read removed channels in closed form, by least squares.
        n_calibration: see ``images``.
        crop_pct: crop of the images, where it differs from the model's data config.
        seed: seed of drawn labels and of random importances.
        device: device to run on, such as ``cuda``.
        out: folder to write to.
        task: meaning of the outputs, a name of :class:`pmq.core.task.Task`; ``auto`` derives it from their number.

    Returns:
        The pruned model as an allocation in FP32, see :class:`Pruned`.

    Raises:
        PmqError: an input is wrong; the message names it in one line.

    Example:
        >>> import torch, pmq
        >>> pruned = pmq.prune(None, torch.randn(16, 1, 28, 28), ratio=0.25, importance="magnitude")
        >>> pruned.allocation.pruning.units["blocks.0.mlp"].share
        0.75
    """
    check_request(importance, ratio, structures, scope, ratios, round_to)
    plan = plan_pruning(
        model,
        images,
        importance=importance,
        structures=structures,
        n_calibration=n_calibration,
        crop_pct=crop_pct,
        seed=seed,
        device=device,
        out=out,
        task=task,
    )
    rotated, scores = score_channels(plan)
    pruning = select_channels(plan, scores, ratio, scope, ratios, round_to)
    cut = build_pruned(plan, rotated, pruning)
    allocation = build_pruned(plan, rotated, pruning.model_copy(update={"recovered": True})) if recovery else cut
    return Pruned(allocation, cut, None if plan.out is None else allocation.save(plan.out / CHOSEN))
