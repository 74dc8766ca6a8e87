"""The settings of a search that ``resume`` compares, and by which the run directory is named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pmq.core import Budget
from pmq.core.allocation import pmq_version
from pmq.core.choice import WidthChoice
from pmq.core.paths import architecture
from pmq.core.recipe import Recipe
from pmq.optimize import Space, SpaceFile
from pmq.pipeline.search.options import RunOptions, SearchOptions
from pmq.pipeline.subject import Subject
from pmq.pruning import plan_of
from pmq.quant import images_sha256
from pmq.quant.custom_loss import loss_name


def search_settings(
    budget: Budget,
    space_file: SpaceFile,
    space: Space,
    recipe: Recipe,
    subject: Subject,
    calibration: Tensor,
    held_out: Tensor,
    options: SearchOptions,
    run_options: RunOptions,
) -> dict[str, Any]:
    """Return the settings that a resumed run must share, as the manifest stores them.

    Stopping criteria are not among them, so that a resumed run may go on for longer.
    """
    plan = plan_of(subject.module)
    settings = {
        "model": subject.info.model_dump(),
        "budget": budget.text,
        "space": space_file.model_dump(exclude_none=True),
        "recipe": recipe.model_dump(),
        "patches": options.patches,
        "task": subject.task.name,
        "pruning": plan and plan.model_dump(),
        "widths": [[w.name, [WidthChoice(unit=u).label for u in w.options]] for w in space.widths] or None,
        "metric": options.metric,
        "latency": options.latency and options.latency.sha256,
        "calibration": {"sha256": images_sha256(calibration), "n_images": len(calibration)},
        "held_out": {"sha256": images_sha256(held_out), "n_images": len(held_out)},
        "seed": run_options.seed,
        "batch_size": run_options.batch_size,
        "threads": torch.get_num_threads(),
        "device": next(subject.model.parameters()).device.type,
        "versions": {"pmq": pmq_version(), "torch": torch.__version__},
    }
    settings |= {"merge": True} if options.merge else {}  # runs without merging keep the names they had before there was any
    return settings if options.loss is None else settings | {"loss": loss_name(options.loss)}


def named_after(results: Path, settings: dict[str, Any]) -> Path:
    """Return the run directory below ``results``: named by model and budget, and by a digest of all settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    budget = settings["budget"].replace(",", "_").replace(">", "")
    return results / architecture(settings["model"]["name"]) / f"{budget}-{digest}"
