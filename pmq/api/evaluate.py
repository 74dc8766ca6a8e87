"""Accuracy of allocations on a data set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from pmq.api.sensitivity import check_quantizers
from pmq.api.subject import Subject, gather_images
from pmq.core import FLOAT, Allocation, Assignment, BitWidth, PmqError
from pmq.core.rundir import CHOSEN, read_manifest
from pmq.cost import CostModel
from pmq.evaluate import evaluate_assignments
from pmq.quant import Calibration, Simulator, calibrate
from pmq.search import Space, SpaceFile, read_space

SHORTHAND = re.compile(r"w(\d+)a(\d+)")
What = Allocation | str
#: header of timm's results files, then ours
COLUMNS = (
    *("model", "img_size", "top1", "top1_err", "top5", "top5_err", "param_count", "crop_pct", "interpolation"),
    *("allocation", "agreement", "kl", "feature_error", "size_bytes", "bit_ops", "images_per_s", "n_images", "seed"),
)


def read_what(text: str) -> What:
    """Read an allocation from a file or a run directory (its chosen one); pass ``fp32`` and ``w4a4`` through.

    Raises:
        PmqError: it is none of these.
    """
    if text == "fp32" or SHORTHAND.fullmatch(text):
        return text
    path = Path(text)
    if path.is_dir():
        read_manifest(path)
        return Allocation.load(path / CHOSEN)
    if not path.is_file():
        raise PmqError(f"{text!r} is no allocation file, no run directory, and not fp32 or a shorthand such as w4a4")
    return Allocation.load(path)


def evaluate(
    model: nn.Module | str | None,
    what: What | Sequence[What],
    batches: Iterable[Any],
    *,
    calibration_images: Tensor | None = None,
    space: str | SpaceFile = "default",
    recipe: str = "mse",
    recalibrate: bool = False,
    crop_pct: float | None = None,
    seed: int = 0,
    device: str | None = None,
) -> pd.DataFrame:
    """Simulate allocations and compare them with the labels and with FP32, all on the same images.

    Args:
        model: a timm-built module (left as it is), or timm's name, or ``None`` for the embedded one.
        what: allocations, or ``fp32``, or uniform shorthands as ``w4a4``; one or several.
        batches: ``(images, labels)`` pairs, or images alone.
        calibration_images: needed by shorthands and by ``recalibrate``.
        space: whose quantizers and pins the shorthands use.
        recipe: whose ranges the shorthands use.
        recalibrate: estimate the ranges anew rather than take the allocation's.
        crop_pct: for the record, where it differs from the model's data config.
        seed: for the record.
        device: where to run.

    Returns:
        A row for each of ``what``, with timm's columns and ours. Top-1, top-5 and agreement are percentages; top-1 and
        top-5 are missing without labels.

    Example:
        >>> import torch, pmq
        >>> images = torch.randn(8, 1, 28, 28)
        >>> table = pmq.evaluate(None, ["fp32", "w8a8"], [images], calibration_images=images)
        >>> table["agreement"].tolist()[0]
        100.0
    """
    items = [what] if isinstance(what, Allocation | str) else list(what)
    subject = Subject.of(model, device, crop_pct=crop_pct)
    uniform = Space(space if isinstance(space, SpaceFile) else read_space(space), subject.inventory, recipe)
    check_quantizers(uniform)
    fresh = _fresh_calibration(subject, items, calibration_images, recalibrate)
    jobs = [(_assignment(item, subject, uniform, recalibrate), _calibration(item, fresh, recalibrate)) for item in items]
    with Simulator(subject.model, subject.inventory, fresh or Calibration()) as simulator:
        found = evaluate_assignments(simulator, _pairs(batches), jobs, subject.classifier)
    costs = CostModel(subject.inventory)
    rows = []
    for item, (assignment, _), metrics in zip(items, jobs, found, strict=True):
        name = item if isinstance(item, str) else item.budget.text if item.budget else "allocation"
        row = _facts(subject) | metrics | {"allocation": name, "seed": seed}
        row |= {"size_bytes": costs.size_bytes(assignment), "bit_ops": costs.bit_ops(assignment)}
        for k in ("top1", "top5"):
            row[f"{k}_err"] = None if row[k] is None else 100.0 - row[k]
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _assignment(item: What, subject: Subject, uniform: Space, recalibrate: bool) -> Assignment:
    if isinstance(item, Allocation):
        if not recalibrate:
            item.check_model(subject.info)
        subject.inventory.check_names(item.components)
        return item.assignment
    if item == "fp32":
        return dict.fromkeys(subject.inventory.names, FLOAT)
    match = SHORTHAND.fullmatch(item)
    if match is None:
        raise PmqError(f"{item!r} is not fp32 or a shorthand such as w4a4")
    return uniform.uniform(BitWidth(int(match[1])), BitWidth(int(match[2])))


def _calibration(item: What, fresh: Calibration | None, recalibrate: bool) -> Calibration:
    if isinstance(item, Allocation) and not recalibrate:
        return Calibration(known=item.ranges)
    return fresh or Calibration()


def _fresh_calibration(subject: Subject, items: list[What], images: Tensor | None, recalibrate: bool) -> Calibration | None:
    """Calibrate if any of ``items`` brings no ranges of its own."""
    if not any(recalibrate if isinstance(item, Allocation) else item != "fp32" for item in items):
        return None
    if images is None:
        raise PmqError("uniform shorthands and recalibration need calibration images; pass some")
    return calibrate(subject.model, subject.inventory, gather_images(images, len(images)))


def _pairs(batches: Iterable[Any]) -> Iterable[tuple[Tensor, Tensor | None]]:
    for batch in batches:
        if isinstance(batch, list | tuple):
            yield batch[0], batch[1] if len(batch) > 1 else None
        else:
            yield batch, None


def _facts(subject: Subject) -> dict[str, Any]:
    config = subject.info.data_config
    params = sum(p.numel() for p in subject.model.parameters())
    return {
        "model": subject.info.name,
        "img_size": config["input_size"][-1],
        "param_count": round(params / 1e6, 2),
        "crop_pct": config["crop_pct"],
        "interpolation": config["interpolation"],
    }
