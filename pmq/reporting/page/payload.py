"""Payload of a report page: all data of a run as plain JSON values, read from its directory."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from pmq.core.manifest import Command
from pmq.reporting.axes import AXES, evenly
from pmq.reporting.page.artefacts import deployments, patch_maps
from pmq.reporting.page.facts import evaluate_command, facts
from pmq.reporting.page.highlights import find_highlights
from pmq.reporting.run_data import RunData, place

FIGURES = ("predicted_error", "kl", "feature_error", "agreement", "size_bytes", "bit_ops", "latency_ms")


def payload(run: RunData, alone: bool = True) -> dict[str, Any]:
    """Return the data of all sections that a run has files for, or only what is compared if it is not ``alone`` on the page.

    Raises:
        PmqError: the run is not finished, or one of its files is missing or damaged.
    """
    manifest, allocation = run.manifest, run.allocation
    command = manifest.command or Command()
    budget = allocation.budget
    data: dict[str, Any] = {
        "name": run.path.name,
        "title": run.heading,
        "command": command.line,
        "facts": facts(run),
        "seconds": manifest.seconds,
        "resumed": manifest.resumed,
        "recalibrate": evaluate_command(command),
        "allocation": allocation.model_dump(mode="json"),
        "places": {name: place(name) for name in allocation.components},
        "achieved": {} if budget is None else budget.achieved,
        "metrics": allocation.metrics if manifest.unsearched is None else manifest.unsearched.model_dump(),
        "deployments": deployments(run.path),
        "patches": patch_maps(run.path) if alone else [],
        "limits": manifest.limits if budget is None or not run.searched else budget.limits,
        "ranking": {name: ranking.model_dump() for name, ranking in manifest.ranking.items()},
    }
    if run.searched:
        data |= _search_data(run, data["limits"], alone)
    rounded: dict[str, Any] = _plain(data)
    return rounded


def _search_data(run: RunData, limits: dict[str, float | None], alone: bool) -> dict[str, Any]:
    """Return the data that only searches have, unlike pruned and fine-tuned models."""
    points = _points(run, alone)
    error = "kl" if points["kl"].notna().any() else "feature_error"
    axes = [axis for axis in AXES if axis[0] in points]
    cost = next((name for name, _, _ in axes if limits.get(name) is not None), "size_bytes")
    data = {
        "axes": [{"key": key, "unit": unit, "label": label} for key, unit, label in axes],
        "error": error,
        "cost": cost,
        "n_points": len(run.points),
        "points": _columns(points),
    }
    if not alone:
        return data
    return data | {
        "picks": find_highlights(points, cost, error),
        "decisions": None if run.decisions is None else [decision.model_dump(mode="json") for decision in run.decisions],
        "sensitivity": _columns(run.sensitivity),
        "cost_breakdown": None if run.cost_breakdown is None else _columns(run.cost_breakdown),
        "rounds": _columns(run.rounds),
    }


def _plain(value: Any) -> Any:
    """Round floats to six significant digits, which suffice for a page, and replace NaN, which JSON lacks, by None."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): table[name].tolist() for name in table}


def _points(run: RunData, alone: bool) -> pd.DataFrame:
    """Return the simulated points, the whole front and, for a run that is ``alone``, an even sample of the dominated points."""
    points = run.points.copy()
    points["source"] = points["source"].fillna("nsga2")
    points["genome"] = points["genome"].fillna("")
    in_fp32 = (points["n_images"] > 0) & points["genome"].map(run.is_fp32)
    points.loc[in_fp32, "source"] = "fp32"  # whatever the search space calls it
    shown = points["front"].astype(bool) | (points["n_images"] > 0) | points["chosen"]
    selection = pd.concat([points[shown], evenly(points[~shown])]) if alone else points[shown]
    names = [name for name in FIGURES if name in selection]
    genome = ["genome"] if alone else []
    return selection[["source", "n_images", "front", "within", "chosen", *genome, *names]].reset_index(drop=True)
