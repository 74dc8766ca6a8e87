"""The verb ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from pmq.core import PmqError
from pmq.core.recipe import Recipe
from pmq.core.spec import What
from pmq.core.task import AUTO, Loss
from pmq.data.image_shards import ImageShards
from pmq.evaluation import RayOptions, evaluate_models, executor_of
from pmq.evaluation.whole_set import Metric
from pmq.optimize import SpaceFile
from pmq.pipeline.evaluation_table import plan_evaluation, quantize_items, results_table
from pmq.pipeline.full_set import evaluate_full_set
from pmq.pipeline.torch_modes import undisturbed


@undisturbed
def evaluate(
    model: nn.Module | str | None,
    what: What | Path | Sequence[What | Path],
    batches: Iterable[Any],
    *,
    calibration_images: Tensor | None = None,
    space: str | SpaceFile = "default",
    recipe: str | Recipe = "best",
    reconstruct: bool = False,
    checkpoints: Path | None = None,
    recalibrate: bool = False,
    amp: bool = False,
    crop_pct: float | None = None,
    seed: int = 0,
    device: str | None = None,
    task: str = AUTO,
    loss: Loss | None = None,
    metric: Metric | None = None,
    partial: bool = False,
    ray: RayOptions | None = None,
) -> pd.DataFrame:
    """Simulate allocations and compare them with the labels and with FP32, all on the same images.

    Args:
        model: a module built by timm (left unchanged), a timm name, or ``None`` for the embedded model.
        what: one or several of: an allocation, its file, its run directory, ``fp32``, or a uniform shorthand such as ``w4a4``.
        batches: pairs ``(images, labels)``, or batches of images alone; or ``images.evaluation_shards(batch_size, indices)`` of
            :func:`pmq.open_images`, whose results are kept shard by shard and which may be spread over a cluster.
        calibration_images: images ``(N, C, H, W)``, needed for shorthands and for ``recalibrate``.
        space: search space that shorthands take their quantizers and pins from.
        recipe: recipe that quantizes shorthands: ``minmax``, ``percentile``, ``mse``, ``fast`` or ``best``.
        reconstruct: whether shorthands learn rounding and scales, block by block.
        checkpoints: folder in which reconstruction keeps finished blocks, and the evaluation of shards its finished shards, so
            that a killed evaluation can resume.
        recalibrate: quantize allocations again by their own recipes instead of loading their tensors.
        amp: multiply in bfloat16 what is not multiplied as integers; ``amp_agreement`` then reports how often the decision
            equals that of full precision.
        crop_pct: crop of the images, where it differs from the model's data config.
        seed: seed of rotations and samples.
        device: device to run on, such as ``cuda``.
        task: meaning of the outputs, a name of :class:`pmq.core.task.Task`; ``auto`` takes that of the first allocation,
            otherwise derives it from the number of outputs.
        loss: loss that replaces the task's own error, see :func:`pmq.search`.
        metric: ``metric(outputs, targets)`` of the outputs of all images and their labels, both on the CPU; its result fills
            the column ``metric``.
        partial: quantize shorthands although less than half of the model can be quantized.
        ray: workers of a Ray cluster that evaluate the shards; the figures are the same. They need to find the images under the
            same path.

    Returns:
        A row for each of ``what``, with timm's columns and ours. Top-1, top-5 and agreement are percentages; top-1 and
        top-5 are missing without labels. ``kl`` compares decisions; ``feature_error`` compares outputs that decide nothing, or
        is the mean of a custom loss. For features, ``cosine`` is the mean similarity with FP32's, ``neighbour_agreement`` the
        percentage of images whose nearest other image is the same, and ``knn_top1``, where there are labels, the percentage
        that a vote of the nearest other images classifies correctly. The frame's ``attrs`` hold the ``task`` and the number
        of ``outputs``.

    Raises:
        PmqError: an input is wrong; the message names it in one line.

    Example:
        >>> import torch, pmq
        >>> images = torch.randn(8, 1, 28, 28)
        >>> table = pmq.evaluate(None, ["fp32", "w8a8"], [images], calibration_images=images)
        >>> table["agreement"].tolist()[0]
        100.0
    """
    in_shards = isinstance(batches, ImageShards)
    if ray is not None and not in_shards:
        raise PmqError("workers cannot read batches of this process; pass those of evaluation_shards() of pmq.open_images")
    with executor_of(ray) as executor:
        plan = plan_evaluation(
            model,
            what,
            batches,
            calibration_images=calibration_images,
            space=space,
            recipe=recipe,
            reconstruct=reconstruct,
            checkpoints=checkpoints,
            recalibrate=recalibrate,
            crop_pct=crop_pct,
            seed=seed,
            device=device,
            task=task,
            loss=loss,
            partial=partial,
        )
        evaluated = quantize_items(plan)
        if in_shards:
            metrics = evaluate_full_set(plan, evaluated, executor, amp, metric)
        else:
            modules = [each.module for each in evaluated]
            metrics = evaluate_models(plan.subject.model, modules, plan.labelled, plan.subject.task, amp, metric)
    return results_table(plan, evaluated, metrics)
