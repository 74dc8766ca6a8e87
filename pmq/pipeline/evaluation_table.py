"""The steps of an evaluation: plan it, quantize each item, and lay the results out as a table."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from pmq.core import FLOAT, Allocation, Assignment
from pmq.core.coverage import Coverage, check_coverage, coverage
from pmq.core.patches import PatchMap
from pmq.core.recipe import Recipe, find_recipe
from pmq.core.spec import What, as_what, read_bits, task_of
from pmq.core.task import Loss
from pmq.cost import CostModel
from pmq.data.image_shards import ImageShards
from pmq.evaluation import Metrics
from pmq.models.finite import check_finite
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.images import as_images, first_and_all
from pmq.pipeline.measure import check_quantizers
from pmq.pipeline.pruned_model import shaped_like
from pmq.pipeline.quantize import RecipeQuantizer
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


@dataclass(frozen=True)
class EvaluationPlan:
    """Everything that the steps of an evaluation need.

    Attributes:
        items: allocations, ``fp32`` and uniform shorthands, in the order of the table's rows.
        subject: the FP32 model with its components.
        labelled: batches of ``(images, labels)``, read once; or the images in shards.
        calibration: images ``(N, C, H, W)`` that shorthands and recalibrated allocations are calibrated on, or ``None``.
        space: search space that shorthands take their quantizers and pins from; None without shorthands.
        recipe: recipe that shorthands are quantized by.
        recalibrate: whether allocations are quantized again by their own recipes instead of loading their tensors.
        coverage: share of the model that has components.
        seed: seed of rotations and samples.
        checkpoints: folder in which reconstruction keeps finished blocks, or ``None``.
    """

    items: tuple[What, ...]
    subject: Subject
    labelled: Iterable[tuple[Tensor, Tensor | None]] | ImageShards
    calibration: Tensor | None
    space: Space | None
    recipe: Recipe
    recalibrate: bool
    coverage: Coverage
    seed: int
    checkpoints: Path | None


@dataclass(frozen=True)
class EvaluatedItem:
    """One item of an evaluation as a module that computes with its bits.

    Attributes:
        subject: the model, pruned as the allocation is.
        assignment: the choice of each component.
        patches: bits of single tokens, or ``None``.
        module: the simulated model.
    """

    subject: Subject
    assignment: Assignment
    patches: PatchMap | None
    module: nn.Module


def plan_evaluation(
    model: nn.Module | str | None,
    what: What | Path | Sequence[What | Path],
    batches: Iterable[Any],
    *,
    calibration_images: Tensor | None,
    space: str | SpaceFile,
    recipe: str | Recipe,
    reconstruct: bool,
    checkpoints: Path | None,
    recalibrate: bool,
    crop_pct: float | None,
    seed: int,
    device: str | None,
    task: str,
    loss: Loss | None,
    partial: bool,
) -> EvaluationPlan:
    """Read and check everything that is to be evaluated; see :func:`pmq.evaluate` for the arguments.

    Raises:
        PmqError: an input is wrong; the message names it in one line.
    """
    items = tuple(as_what(item) for item in ([what] if isinstance(what, Allocation | str | Path) else what))
    image, labelled = first_and_all(batches)
    like = None if recalibrate else next((item for item in items if isinstance(item, Allocation)), None)
    whole = (space := read_space(space)).operators is not None or any(isinstance(i, Allocation) and i.whole for i in items)
    norms = space.norms_written_out or any(isinstance(i, Allocation) and i.norms_written_out for i in items)
    subject = Subject.of(model, device, image, crop_pct, task_of(task, *items), like, whole=whole, norms=norms)
    subject = subject.with_loss(loss, image)
    if calibration_images is not None:
        calibration_images = as_images(calibration_images).cpu()
        check_finite(subject.module, calibration_images)
    uniform_recipe = find_recipe(recipe, reconstruct)
    uniform_space = None
    if not all(isinstance(item, Allocation) for item in items):  # allocations have quantizers of their own
        uniform_space = Space(space, subject.inventory, uniform_recipe.estimator)
        check_quantizers(uniform_space)
    covered = coverage(subject.inventory)
    if any(item != "fp32" for item in items):  # the coverage of an allocation was checked when it was searched
        check_coverage(covered, partial or all(isinstance(item, Allocation) or item == "fp32" for item in items))
    return EvaluationPlan(
        items=items,
        subject=subject,
        labelled=labelled,
        calibration=calibration_images,
        space=uniform_space,
        recipe=uniform_recipe,
        recalibrate=recalibrate,
        coverage=covered,
        seed=seed,
        checkpoints=checkpoints,
    )


def quantize_items(plan: EvaluationPlan) -> list[EvaluatedItem]:
    """Build the simulated model of every item."""
    subject, shared = plan.subject, RecipeQuantizer(plan.subject, plan.calibration, plan.seed, plan.checkpoints)
    evaluated = []
    for item in plan.items:
        if item == "fp32":
            evaluated.append(EvaluatedItem(subject, dict.fromkeys(subject.inventory.names, FLOAT), None, subject.model))
            continue
        shaped, quantizer = subject, shared
        if isinstance(item, Allocation) and (item.pruning or item.merging or plan_of(subject.module)):
            shaped = shaped_like(subject, item, plan.calibration if plan.recalibrate else None)
            quantizer = RecipeQuantizer(shaped, plan.calibration, plan.seed, plan.checkpoints)
        quantized = _quantized(plan, item, shaped, quantizer)
        module = build_quantized_model(copy.deepcopy(shaped.model), shaped.inventory, quantized).model
        evaluated.append(EvaluatedItem(shaped, quantized.assignment, quantized.patches, module))
    return evaluated


def results_table(plan: EvaluationPlan, evaluated: Sequence[EvaluatedItem], metrics: Sequence[Metrics]) -> pd.DataFrame:
    """Return a row for each item with the columns :data:`COLUMNS`; ``attrs`` hold the task and the number of outputs."""
    rows = []
    for item, each, figures in zip(plan.items, evaluated, metrics, strict=True):
        name = item if isinstance(item, str) else item.budget.text if item.budget else "allocation"
        costs = CostModel(each.subject.inventory)
        row = _model_columns(each.subject) | figures | {"allocation": name, "seed": plan.seed}
        row["macs_searched"] = plan.coverage.macs_searched
        row["patches"] = None if each.patches is None else each.patches.label
        row["size_bytes"] = costs.size_bytes(each.assignment, each.patches)
        row["bit_ops"] = costs.bit_ops(each.assignment, each.patches)
        for k in ("top1", "top5"):
            row[f"{k}_err"] = None if row[k] is None else 100.0 - row[k]
        rows.append(row)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs |= {"task": plan.subject.task.name, "outputs": plan.subject.info.num_classes}
    return frame


def _quantized(plan: EvaluationPlan, item: What, subject: Subject, quantizer: RecipeQuantizer) -> Quantized:
    if not isinstance(item, Allocation):
        assert plan.space is not None
        return quantizer.quantize(plan.recipe, plan.space.uniform(*read_bits(item)))
    if not plan.recalibrate:
        return load_quantized(subject, item)
    subject.inventory.check_names(item.components)
    return quantizer.quantize(item.recipe, item.assignment, item.patches)


def _model_columns(subject: Subject) -> dict[str, Any]:
    config = subject.info.data_config
    n_parameters = sum(p.numel() for p in subject.module.parameters())
    return {
        "model": subject.info.name,
        "img_size": config["input_size"][-1],
        "param_count": round(n_parameters / 1e6, 2),
        "crop_pct": config.get("crop_pct"),
        "interpolation": config.get("interpolation"),
    }
