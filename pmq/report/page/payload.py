"""Everything a page shows of a run, as plain JSON values: read from its directory alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pmq.core.rundir import CHOSEN, DECISIONS, PRUNED, SPENT
from pmq.report.heatmap import place
from pmq.report.page.picks import picks
from pmq.report.pareto import AXES
from pmq.report.patch_data import NAME as PATCHES
from pmq.report.run_data import RunData

#: points of the dominated cloud that a page holds; of the front and of what was simulated it holds all
CLOUD = 4000
FIGURES = ("predicted_error", "kl", "feature_error", "agreement", "size_bytes", "bit_ops", "latency_ms")
DEPLOYMENT = "deployment.json"
#: what a page shows of it
DEPLOYED = (
    *("target", "size_bytes", "latency_ms", "predicted_latency_ms", "fp32_latency_ms", "torch_latency_ms", "agreement_fp32"),
    *("agreement_simulated", "agreement_simulation_fp32", "kl_fp32", "n_images", "run", "proof"),
)


def payload(run: RunData) -> dict[str, Any]:
    """Give all sections that a run has the files for."""
    manifest, allocation = run.manifest, run.allocation
    found: dict[str, Any] = {
        "name": run.path.name,
        "title": run.heading,
        "model": allocation.model.name,
        "command": (manifest.get("command") or {}).get("line"),
        "facts": facts(run),
        "seconds": manifest.get("seconds"),
        "allocation": json.loads((run.path / CHOSEN).read_text()),
        "places": {name: place(name) for name in allocation.components},
        "achieved": None if allocation.budget is None else allocation.budget.achieved,
        "metrics": allocation.metrics,
        "deployments": deployments(run.path),
        "patches": [json.loads(path.read_text()) for path in _patch_files(run.path)],
        "limits": manifest.get("limits", {}),
        "ranking": manifest.get("ranking", {}),
    }
    if run.pruned:
        return found | {"pruned": manifest[PRUNED]}
    points = _points(run.points)
    error = "kl" if points["kl"].notna().any() else "feature_error"
    axes = [axis for axis in AXES if axis[0] in points]
    cost = next((name for name, _, _ in axes if found["limits"].get(name) is not None), "size_bytes")
    decisions = run.path / DECISIONS
    return found | {
        "axes": [{"key": key, "unit": unit, "label": label} for key, unit, label in axes],
        "error": error,
        "cost": cost,
        "n_points": len(run.points),
        "points": _columns(points),
        "picks": picks(points, cost, error),
        "decisions": json.loads(decisions.read_text()) if decisions.is_file() else None,
        "sensitivity": _columns(run.sensitivity[["component", "role", "bits", "quantizer", "error", "metric"]]),
        "widths": _columns(pd.read_csv(run.path / "widths.csv")) if (run.path / "widths.csv").is_file() else None,
        "spent": _columns(pd.read_csv(run.path / SPENT)) if (run.path / SPENT).is_file() else None,
        "rounds": _columns(run.rounds),
    }


def facts(run: RunData) -> list[list[str]]:
    """What determines a run's result, line by line."""
    asked, allocation = run.manifest.get("settings", {}), run.allocation
    model, calibration = allocation.model, allocation.calibration
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
        "held-out images": (held := asked.get("held_out")) and f"{held['n_images']}, sha256 {held['sha256'][:12]}",
        "seed": asked.get("seed", calibration and calibration.seed),
        "batch size": asked.get("batch_size"),
        "device": asked.get("device"),
        "latency table": (table := asked.get("latency")) and f"sha256 {table[:12]}",
    }
    said |= {name: version for name, version in asked.get("versions", {}).items()}
    return [[name, str(value)] for name, value in said.items() if value not in (None, "")]


def deployments(folder: Path) -> list[dict[str, Any]]:
    """Every deployed file below a run."""
    rows = []
    for path in sorted(folder.glob(f"**/{DEPLOYMENT}")):
        said = json.loads(path.read_text())
        rows.append({key: said.get(key) for key in DEPLOYED} | {"folder": str(path.parent.relative_to(folder))})
    return rows


def _digits(value: Any) -> Any:
    """Six significant digits, which is more than a page needs of a figure."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns as lists; what is missing is null."""
    return {str(name): [_digits(value) for value in table[name].tolist()] for name in table}


def _points(points: pd.DataFrame) -> pd.DataFrame:
    """All that was simulated, the whole front, and some of the cloud, evenly."""
    points = points.copy()
    points["source"] = points["source"].fillna("nsga2")
    points["chosen"] = points["chosen"].fillna(False).astype(bool) if "chosen" in points else False
    shown = points["front"].astype(bool) | (points["n_images"] > 0) | points["chosen"]
    cloud = points.index[~shown]
    drawn = cloud[np.unique(np.linspace(0, len(cloud) - 1, min(CLOUD, len(cloud))).astype(int))]
    kept = points.loc[points.index[shown].append(drawn)].reset_index(drop=True)
    names = [name for name in FIGURES if name in kept]
    kept["genome"] = kept["genome"].fillna("")
    return kept[["source", "n_images", "front", "within", "chosen", "genome", *names]]


def _patch_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob(f"plots/{PATCHES}"), *folder.glob(f"allocations/*-plots/{PATCHES}")])
