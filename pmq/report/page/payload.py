"""Everything a page shows of a run, as plain JSON values: read from its directory alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from pmq.core.files import read_json
from pmq.core.rundir import CHOSEN, DECISIONS, DEPLOYMENT, PRUNED
from pmq.report.page.facts import carried_out_by, facts
from pmq.report.page.picks import picks
from pmq.report.pareto import AXES, evenly
from pmq.report.patch_data import NAME as PATCHES
from pmq.report.run_data import RunData, place

FIGURES = ("predicted_error", "kl", "feature_error", "agreement", "size_bytes", "bit_ops", "latency_ms")
#: what a page shows of a deployed file
DEPLOYED = (
    *("target", "size_bytes", "latency_ms", "predicted_latency_ms", "fp32_latency_ms", "unpruned_latency_ms", "torch_latency_ms"),
    *("agreement_fp32", "agreement_simulated", "agreement_simulation_fp32", "kl_fp32", "n_images", "threads", "machine"),
    *("run", "proof"),
)


def payload(run: RunData, alone: bool = True) -> dict[str, Any]:
    """Give all sections that a run has the files for; where it is not ``alone`` on the page, what is compared.

    Raises:
        PmqError: the run did not finish, or one of its files is missing or damaged.
    """
    manifest, allocation = run.manifest, run.allocation
    found: dict[str, Any] = {
        "name": run.path.name,
        "title": run.heading,
        "command": (manifest.get("command") or {}).get("line"),
        "facts": facts(run),
        "seconds": manifest.get("seconds"),
        "resumed": bool(manifest.get("resumed")),
        "recalibrate": carried_out_by(manifest.get("command") or {}),
        "allocation": read_json(run.path / CHOSEN, "allocation"),
        "places": {name: place(name) for name in allocation.components},
        "achieved": {} if allocation.budget is None else allocation.budget.achieved,
        "metrics": manifest[PRUNED] if run.pruned else allocation.metrics,
        "deployments": deployments(run.path),
        "patches": [read_json(path, "map of patches") for path in _patch_files(run.path)] if alone else [],
        "limits": manifest.get("limits", {}),
        "ranking": manifest.get("ranking", {}),
    }
    if not run.pruned:
        found |= _searched(run, found["limits"], alone)
    rounded: dict[str, Any] = _plain(found)
    return rounded


def _searched(run: RunData, limits: dict[str, float | None], alone: bool) -> dict[str, Any]:
    """What a search leaves, and a pruned model does not have."""
    points = _points(run.points, alone)
    error = "kl" if points["kl"].notna().any() else "feature_error"
    points.loc[points[error] == 0, "source"] = "fp32"  # in whichever way a space spells it
    axes = [axis for axis in AXES if axis[0] in points]
    cost = next((name for name, _, _ in axes if limits.get(name) is not None), "size_bytes")
    found = {
        "axes": [{"key": key, "unit": unit, "label": label} for key, unit, label in axes],
        "error": error,
        "cost": cost,
        "n_points": len(run.points),
        "points": _columns(points),
    }
    if not alone:
        return found
    decisions = run.path / DECISIONS
    return found | {
        "picks": picks(points, cost, error),
        "decisions": read_json(decisions, "decisions")["decisions"] if decisions.is_file() else None,
        "sensitivity": _columns(run.sensitivity),
        "spent": None if run.spent is None else _columns(run.spent),
        "rounds": _columns(run.rounds),
    }


def deployments(folder: Path) -> list[dict[str, Any]]:
    """Every deployed file below a run."""
    found = []
    for path in sorted(folder.glob(f"**/{DEPLOYMENT}")):
        said = read_json(path, "deployment")
        found.append({key: said.get(key) for key in DEPLOYED} | {"folder": str(path.parent.relative_to(folder))})
    return found


def _plain(value: Any) -> Any:
    """Round to six significant digits, which is more than a page needs; JSON has no NaN."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(of) for key, of in value.items()}
    return [_plain(of) for of in value] if isinstance(value, list | tuple) else value


def _columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): table[name].tolist() for name in table}


def _points(points: pd.DataFrame, alone: bool) -> pd.DataFrame:
    """All that was simulated, the whole front, and some of the cloud, evenly; of the cloud nothing where runs are compared."""
    points = points.copy()
    points["source"] = points["source"].fillna("nsga2")
    points["chosen"] = points["chosen"].fillna(False).astype(bool) if "chosen" in points else False
    points["genome"] = points["genome"].fillna("")
    shown = points["front"].astype(bool) | (points["n_images"] > 0) | points["chosen"]
    kept = pd.concat([points[shown], evenly(points[~shown])]) if alone else points[shown]
    names = [name for name in FIGURES if name in kept]
    genome = ["genome"] if alone else []
    return kept[["source", "n_images", "front", "within", "chosen", *genome, *names]].reset_index(drop=True)


def _patch_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob(f"plots/{PATCHES}"), *folder.glob(f"allocations/*-plots/{PATCHES}")])
