"""Settings that determine a run's result, and the command that reproduces an allocation."""

from __future__ import annotations

import shlex
from typing import Any

from pmq.core.manifest import Command
from pmq.reporting.run_data import RunData


def facts(run: RunData) -> list[list[str]]:
    """Return the name and value of each setting that the result depends on."""
    manifest, allocation, settings = run.manifest, run.allocation, run.settings if run.searched else None
    model, calibration = allocation.model, allocation.calibration
    held, table = settings and settings.held_out, settings and settings.latency
    searched, weights = manifest.macs_searched, ""
    if manifest.bytes_searched is not None:
        weights = f" and {manifest.bytes_searched:.1f} % of weight bytes"
    values: dict[str, Any] = {
        "model": model.name,
        "weights": f"sha256 {model.weights_sha256[:12]}",
        "classes": model.num_classes,
        "input": "x".join(map(str, model.data_config.get("input_size", ()))),
        "budget": settings and settings.budget,
        "search space": allocation.space,
        "target": allocation.target,
        "recipe": allocation.recipe.name,
        "sensitivity metric": settings and settings.metric,
        "searched": None if searched is None else f"{searched:.1f} % of multiply-accumulates{weights}",
        "bit-widths of patches": None if allocation.patches is None else allocation.patches.label,
        "merged tokens": None if allocation.merging is None else allocation.merging.label,
        "pruned by": None if allocation.pruning is None else allocation.pruning.importance,
        "calibration images": calibration and f"{calibration.n_images}, sha256 {calibration.sha256[:12]}",
        "held-out images": held and f"{held.n_images}, sha256 {held.sha256[:12]}",
        "seed": (calibration and calibration.seed) if settings is None else settings.seed,
        "batch size": settings and settings.batch_size,
        "device": settings and settings.device,
        "latency table": table and f"sha256 {table[:12]}",
    }
    values |= (settings and settings.versions) or {"pmq": allocation.producer.version}
    return [[name, str(value)] for name, value in values.items() if value not in (None, "")]


def evaluate_command(command: Command) -> str:
    """Return the command line that quantizes the model with an allocation file outside the run and evaluates it."""
    words = ["pmq", "evaluate", "FILE", *([command.model] if command.model else [])]
    for flag in ("checkpoint", "data", "split", "crop_pct"):
        value = getattr(command, flag)
        words += [f"--{flag.replace('_', '-')}", str(value)] if value else []
    return shlex.join([*words, "--recalibrate"])
