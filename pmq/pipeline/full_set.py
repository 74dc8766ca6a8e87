"""Evaluation of the items of a plan on images in shards, whose results are kept until all are done."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pmq.core import Allocation
from pmq.core.errors import PmqError
from pmq.core.journal import Journal
from pmq.core.lock import Lock, hold
from pmq.core.progress import message
from pmq.data.image_shards import ImageShards
from pmq.evaluation import Executor, Metrics
from pmq.evaluation.comparison import Comparison
from pmq.evaluation.ray_worker import installed_versions
from pmq.evaluation.sharded import evaluate_shards
from pmq.evaluation.whole_set import Metric
from pmq.pipeline.evaluation_table import EvaluatedItem, EvaluationPlan
from pmq.quant import images_sha256

#: how a stopped evaluation goes on
_HINT = "go on with the same command"


def evaluate_full_set(
    plan: EvaluationPlan, evaluated: Sequence[EvaluatedItem], executor: Executor, amp: bool, metric: Metric | None
) -> list[Metrics]:
    """Evaluate all items in one pass over the shards of the plan's images.

    If the plan has a folder of checkpoints, each finished shard is kept there until all are finished, in a subfolder named by a
    digest of everything that the figures depend on.

    Raises:
        PmqError: images or shards cannot be evaluated, see :func:`pmq.evaluation.sharded.evaluate_shards`.
    """
    images = plan.labelled
    assert isinstance(images, ImageShards)
    comparison = Comparison(plan.subject.model, [each.module for each in evaluated], plan.subject.task, amp, metric is not None)
    kept = None if plan.checkpoints is None or len(images) < 2 else plan.checkpoints / f"evaluated-{_digest(plan, images, amp)}"
    if kept is None or metric is not None or plan.subject.task.loss is not None:  # no digest tells functions apart
        return evaluate_shards(comparison, images, executor, None, metric)
    lock, journal = _open_journal(kept)
    metrics = evaluate_shards(comparison, images, executor, journal, metric)
    if journal is not None:
        shutil.rmtree(kept, ignore_errors=True)
    del lock  # held until here
    return metrics


def _open_journal(folder: Path) -> tuple[Lock | None, Journal | None]:
    """Return the lock and the journal of a folder, or report why nothing can be kept there."""
    try:
        return hold(folder), Journal(folder / "journal.jsonl", _HINT)
    except PmqError as error:
        message(f"finished shards are not kept: {error}")
        return None, None


def _digest(plan: EvaluationPlan, images: ImageShards, amp: bool) -> str:
    """Return a digest of everything that figures depend on."""
    facts: dict[str, Any] = {
        "model": plan.subject.info.model_dump(),
        "items": [_identity(item) for item in plan.items],
        "images": images.source.identity(images.indices),
        "batch_size": images.batch_size,
        "calibration": None if plan.calibration is None else images_sha256(plan.calibration),
        "space": plan.space and plan.space.file.model_dump(exclude_none=True),
        "recipe": plan.recipe.model_dump(),
        "recalibrate": plan.recalibrate,
        "task": [plan.subject.task.name, plan.subject.task.scale],
        "amp": amp,
        "seed": plan.seed,
        "threads": torch.get_num_threads(),
        "device": next(plan.subject.model.parameters()).device.type,
        "versions": installed_versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _identity(item: Allocation | str) -> Any:
    if isinstance(item, str):
        return item
    return [item.model_dump(mode="json"), None if item.tensors is None else item.tensors.sha256]
