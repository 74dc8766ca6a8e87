"""What determines a run's result, and how to have it again."""

from __future__ import annotations

import shlex
from typing import Any

from pmq.core.manifest import Command
from pmq.reporting.run_data import RunData


def facts(run: RunData) -> list[list[str]]:
    """Name and value of all that the result depends on."""
    manifest, allocation, asked = run.manifest, run.allocation, None if run.pruned else run.asked
    model, calibration = allocation.model, allocation.calibration
    held, table = asked and asked.held_out, asked and asked.latency
    searched, weights = manifest.macs_searched, ""
    if manifest.bytes_searched is not None:
        weights = f" and {manifest.bytes_searched:.1f} % of weight bytes"
    said: dict[str, Any] = {
        "model": model.name,
        "weights": f"sha256 {model.weights_sha256[:12]}",
        "classes": model.num_classes,
        "input": "x".join(map(str, model.data_config.get("input_size", ()))),
        "budget": asked and asked.budget,
        "search space": allocation.space,
        "target": allocation.target,
        "recipe": allocation.recipe.name,
        "sensitivity metric": asked and asked.metric,
        "searched": None if searched is None else f"{searched:.1f} % of multiply-accumulates{weights}",
        "bits of patches": None if allocation.patches is None else allocation.patches.label,
        "pruned by": None if allocation.pruning is None else allocation.pruning.importance,
        "calibration images": calibration and f"{calibration.n_images}, sha256 {calibration.sha256[:12]}",
        "held-out images": held and f"{held.n_images}, sha256 {held.sha256[:12]}",
        "seed": (calibration and calibration.seed) if asked is None else asked.seed,
        "batch size": asked and asked.batch_size,
        "device": asked and asked.device,
        "latency table": table and f"sha256 {table[:12]}",
    }
    said |= (asked and asked.versions) or {"pmq": allocation.producer.version}
    return [[name, str(value)] for name, value in said.items() if value not in (None, "")]


def executing_environment(command: Command) -> str:
    """The command line that carries out an allocation file which lies outside the run."""
    words = ["pmq", "evaluate", "FILE", *([command.model] if command.model else [])]
    for flag in ("checkpoint", "data", "split", "crop_pct"):
        value = getattr(command, flag)
        words += [f"--{flag.replace('_', '-')}", str(value)] if value else []
    return shlex.join([*words, "--recalibrate"])
