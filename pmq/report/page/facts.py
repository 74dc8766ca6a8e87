"""What determines a run's result, and how to have it again."""

from __future__ import annotations

import shlex
from typing import Any

from pmq.report.run_data import RunData


def facts(run: RunData) -> list[list[str]]:
    """Name and value of all that the result depends on."""
    asked, allocation = run.manifest.get("settings", {}), run.allocation
    model, calibration = allocation.model, allocation.calibration
    held, table = asked.get("held_out"), asked.get("latency")
    said: dict[str, Any] = {
        "model": model.name,
        "weights": f"sha256 {model.weights_sha256[:12]}",
        "classes": model.num_classes,
        "input": "x".join(map(str, model.data_config.get("input_size", ()))),
        "budget": asked.get("budget"),
        "search space": allocation.space,
        "target": allocation.target,
        "recipe": allocation.recipe.name,
        "sensitivity metric": asked.get("metric"),
        "bits of patches": None if allocation.patches is None else allocation.patches.label,
        "pruned by": None if allocation.pruning is None else allocation.pruning.importance,
        "calibration images": calibration and f"{calibration.n_images}, sha256 {calibration.sha256[:12]}",
        "held-out images": held and f"{held['n_images']}, sha256 {held['sha256'][:12]}",
        "seed": asked.get("seed", calibration and calibration.seed),
        "batch size": asked.get("batch_size"),
        "device": asked.get("device"),
        "latency table": table and f"sha256 {table[:12]}",
    }
    said |= asked.get("versions", {"pmq": allocation.producer.version})
    return [[name, str(value)] for name, value in said.items() if value not in (None, "")]


def carried_out_by(command: dict[str, Any]) -> str:
    """The command line that carries out an allocation file which lies outside the run."""
    words = ["pmq", "evaluate", "FILE", *([command["model"]] if command.get("model") else [])]
    for flag in ("checkpoint", "data", "split", "crop_pct"):
        words += [f"--{flag.replace('_', '-')}", str(command[flag])] if command.get(flag) else []
    return shlex.join([*words, "--recalibrate"])
