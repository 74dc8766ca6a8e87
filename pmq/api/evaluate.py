"""Accuracy of allocations on a data set."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from pmq.core import FLOAT, Allocation
from pmq.core.coverage import check_coverage, coverage
from pmq.core.recipe import Recipe, find_recipe
from pmq.core.spec import What, as_what, read_bits, task_of
from pmq.core.task import AUTO, Loss
from pmq.cost import CostModel
from pmq.evaluation import evaluate_models
from pmq.evaluation.whole_set import Metric
from pmq.models.finite import check_finite
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.images import as_images, pairs
from pmq.pipeline.measure import check_quantizers
from pmq.pipeline.modes import undisturbed
from pmq.pipeline.pruned_model import pruned_like
from pmq.pipeline.quantize import Fresh
from pmq.pipeline.subject import Subject
from pmq.pruning import plan_of
from pmq.quant import Quantized, build_quantized_model

#: header of timm's results files, then ours
COLUMNS = (
    *("model", "img_size", "top1", "top1_err", "top5", "top5_err", "param_count", "crop_pct", "interpolation"),
    *("allocation", "patches", "agreement", "kl", "feature_error", "cosine", "neighbour_agreement", "knn_top1", "metric"),
    *("size_bytes", "bit_ops"),
    *("images_per_s", "amp_agreement", "n_images", "seed", "macs_searched"),
)


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
) -> pd.DataFrame:
    """Simulate allocations and compare them with the labels and with FP32, all on the same images.

    Args:
        model: a timm-built module (left as it is), or timm's name, or ``None`` for the embedded one.
        what: allocations, their files or runs, or ``fp32``, or uniform shorthands as ``w4a4``; one or several.
        batches: ``(images, labels)`` pairs, or images alone.
        calibration_images: needed by shorthands and by ``recalibrate``.
        space: whose quantizers and pins the shorthands use.
        recipe: how shorthands are quantized: ``minmax``, ``percentile``, ``mse``, ``fast`` or ``best``.
        reconstruct: shorthands learn rounding and scales, block by block.
        checkpoints: folder where that keeps what is done, to go on from after a kill.
        recalibrate: carry allocations out anew, by their own recipes, rather than take their tensors.
        amp: multiply in bfloat16 what is not multiplied as integers; ``amp_agreement`` then tells how often that decides
            as full precision does.
        crop_pct: for the record, where it differs from the model's data config.
        seed: of rotations and samples.
        device: where to run.
        task: what outputs mean: a name of :class:`pmq.core.task.Task`; ``auto``
            goes by the first allocation, else by their number.
        loss: what errors are measured by in place of the task's own figure, see :func:`pmq.search`.
        metric: ``metric(outputs, targets)``: the outputs of all images and their labels, on the CPU -> the number of the
            column ``metric``.
        partial: quantize shorthands though less than half of the model can be.

    Returns:
        A row for each of ``what``, with timm's columns and ours. Top-1, top-5 and agreement are percentages; top-1 and
        top-5 are missing without labels. ``kl`` is that of decisions, ``feature_error`` of what decides nothing, or the mean
        of a loss of one's own. For features ``cosine`` is the mean similarity with FP32's, ``neighbour_agreement`` tells
        how often the nearest other image is the same, and ``knn_top1``, where there are labels, how often the others' votes
        give the right class. The frame's ``attrs`` hold the ``task`` and the number of ``outputs``.

    Example:
        >>> import torch, pmq
        >>> images = torch.randn(8, 1, 28, 28)
        >>> table = pmq.evaluate(None, ["fp32", "w8a8"], [images], calibration_images=images)
        >>> table["agreement"].tolist()[0]
        100.0
    """
    items = [as_what(item) for item in ([what] if isinstance(what, Allocation | str | Path) else what)]
    image, labelled = pairs(batches)
    like = None if recalibrate else next((item for item in items if isinstance(item, Allocation)), None)
    subject = Subject.of(model, device, image, crop_pct, task_of(task, *items), like).judged_by(loss, image)
    if calibration_images is not None:
        calibration_images = as_images(calibration_images).cpu()
        check_finite(subject.module, calibration_images)
    own = find_recipe(recipe, reconstruct)
    uniform = Space(space if isinstance(space, SpaceFile) else read_space(space), subject.inventory, own.estimator)
    check_quantizers(uniform)
    covered = coverage(subject.inventory)
    if any(item != "fp32" for item in items):  # of an allocation it was decided when it was searched
        check_coverage(covered, partial or all(isinstance(item, Allocation) or item == "fp32" for item in items))
    fresh = Fresh(subject, calibration_images, seed, checkpoints)
    evaluated, models = [], []
    for item in items:
        shaped, made = subject, fresh
        if isinstance(item, Allocation) and (item.pruning is not None or plan_of(subject.module) is not None):
            shaped = pruned_like(subject, item, calibration_images if recalibrate else None)
            made = Fresh(shaped, calibration_images, seed, checkpoints)
        if item == "fp32":
            assignment, patches, module = dict.fromkeys(subject.inventory.names, FLOAT), None, subject.model
        else:
            quantized = _quantized(item, shaped, uniform, own, made, recalibrate)
            assignment, patches = quantized.assignment, quantized.patches
            module = build_quantized_model(copy.deepcopy(shaped.model), shaped.inventory, quantized).model
        evaluated.append((shaped, assignment, patches))
        models.append(module)
    found = evaluate_models(subject.model, models, labelled, subject.task, amp, metric)
    rows = []
    for item, (shaped, assignment, patches), metrics in zip(items, evaluated, found, strict=True):
        name = item if isinstance(item, str) else item.budget.text if item.budget else "allocation"
        costs = CostModel(shaped.inventory)
        row = _facts(shaped) | metrics | {"allocation": name, "seed": seed}
        row["macs_searched"] = covered.macs_searched
        row["patches"] = None if patches is None else patches.label
        row |= {"size_bytes": costs.size_bytes(assignment, patches), "bit_ops": costs.bit_ops(assignment, patches)}
        for k in ("top1", "top5"):
            row[f"{k}_err"] = None if row[k] is None else 100.0 - row[k]
        rows.append(row)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs |= {"task": subject.task.name, "outputs": subject.info.num_classes}
    return frame


def _quantized(item: What, subject: Subject, uniform: Space, recipe: Recipe, fresh: Fresh, recalibrate: bool) -> Quantized:
    if isinstance(item, Allocation):
        if not recalibrate:
            return load_quantized(subject, item)
        subject.inventory.check_names(item.components)
        return fresh.quantize(item.recipe, item.assignment, item.patches)
    return fresh.quantize(recipe, uniform.uniform(*read_bits(item)))


def _facts(subject: Subject) -> dict[str, Any]:
    config = subject.info.data_config
    params = sum(p.numel() for p in subject.module.parameters())
    return {
        "model": subject.info.name,
        "img_size": config["input_size"][-1],
        "param_count": round(params / 1e6, 2),
        "crop_pct": config.get("crop_pct"),
        "interpolation": config.get("interpolation"),
    }
