"""The files that a finished search writes to its run directory."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pandas as pd
from torch import nn

from pmq.core import Allocation
from pmq.core.files import write_csv, write_text
from pmq.core.genomes import to_text
from pmq.core.run_files import GRAPH
from pmq.core.rundir import CHOSEN, DECISIONS, LATENCY, LAYERS, SPENT, RunDir
from pmq.cost import CostModel, component_bytes
from pmq.cost.breakdown import cost_breakdown
from pmq.graph.record import graph_record
from pmq.optimize import Space
from pmq.pipeline.patches.figures import draw_patches
from pmq.pipeline.search.explore import Archive
from pmq.pipeline.search.plan import SearchPlan
from pmq.pipeline.search.result import SearchResult
from pmq.pipeline.search.steps import Chosen, Explored
from pmq.pipeline.subject import Subject
from pmq.pruning import plan_of
from pmq.reporting.page import write_page


def publish(plan: SearchPlan, explored: Explored, chosen: Chosen, result: SearchResult, model: nn.Module | str | None) -> None:
    """Write the run directory, if there is one: tables, allocations, pictures of patches, and the report.

    ``model`` is the user's model, which the pictures of patches need.
    """
    if plan.run is None:
        return
    write_run(plan.run, result, plan.subject, chosen.subject, plan.space, explored.archive, dict(plan.run_options.command or {}))
    if plan.options.patches is not None:
        draw_patches(model, result.allocation, plan.images.calibration, plan.run.path / "plots", plan.options.crop_pct)
    write_page([plan.run.path])


def write_run(
    run: RunDir,
    result: SearchResult,
    subject: Subject,
    chosen: Subject,
    space: Space,
    archive: Archive,
    command: dict[str, Any],
) -> None:
    """Write the tables, the points, the chosen allocation with its schema, and last the manifest that marks the run finished.

    ``chosen`` is the model of the chosen allocation, which may be narrower than the ``subject`` of the search.
    """
    path = run.path
    write_csv(path / "sensitivity.csv", result.sensitivity.frame(subject.inventory))
    if space.widths:
        write_csv(path / "widths.csv", result.sensitivity.widths())
    write_csv(path / "costs.csv", _costs(space))
    write_text(path / DECISIONS, json.dumps({"decisions": _decisions(space)}) + "\n")
    costs = CostModel(chosen.inventory, space.latency, plan_of(chosen.module))
    write_csv(path / SPENT, pd.DataFrame(cost_breakdown(costs, result.allocation.assignment, result.allocation.patches)))
    if space.latency is not None:
        space.latency.save(path / LATENCY)
    write_text(path / "inventory.json", json.dumps(subject.inventory.to_dict(), indent=1) + "\n")
    write_text(path / GRAPH, json.dumps(graph_record(subject.model)) + "\n")
    points = result.points.copy()
    points["genome"] = [to_text(archive.genomes[i]) if i >= 0 else "" for i in points.pop("genome_id")]
    interesting = points["front"] | points["kl"].notna() | points["feature_error"].notna()
    write_csv(path / "front.csv", points[interesting].sort_values("bit_ops"))
    write_csv(path / "points.csv", points[~interesting].drop(columns=["kl", "agreement", "feature_error", "source"]))
    write_csv(path / "rounds.csv", result.rounds)
    write_text(path / "allocations" / "schema.json", json.dumps(Allocation.json_schema(), indent=1) + "\n")
    result.allocation.save(path / CHOSEN)
    if result.without_patches is not None:
        result.without_patches.save(path / LAYERS)
    run.finish(
        command=command,
        chosen=str(CHOSEN),
        limits=asdict(result.limits),
        ranking=result.ranking,
        seconds=result.seconds,  # of the process that finished; a resumed run took longer in total
        peak_bytes=result.peak_bytes,
        resumed=run.resumed,
        transforms=[asdict(rewriting) for rewriting in result.rewritings],
        macs_searched=result.coverage.macs_searched,
        bytes_searched=result.coverage.bytes_searched,
        uncovered=[asdict(entry) for entry in subject.inventory.uncovered],
    )


def _decisions(space: Space) -> list[dict[str, Any]]:
    """Return the choices that each digit of a genome stands for, so that genomes can be read without the search space."""
    return [
        {
            "components": decision.components,
            "choices": [[choice.model_dump(mode="json") for choice in choices] for choices in decision.choices],
        }
        for decision in space.decisions
    ]


def _costs(space: Space) -> pd.DataFrame:
    rows = []
    for name, choices in space.choices.items():
        component = space.inventory[name]
        for choice in choices:
            row = {"component": name, "bits": choice.bits, "quantizer": choice.quantizer, "group_size": choice.group_size}
            rows.append(row | {"size_bytes": component_bytes(component, choice)})
    return pd.DataFrame(rows)
