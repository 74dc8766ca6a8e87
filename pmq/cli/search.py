"""``pmq search``: search an allocation of bits for a model within a budget."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmq.cli import options as o
from pmq.cli.cluster import NO_CLUSTER, Cluster
from pmq.cli.grouped import grouped
from pmq.cli.hints import as_flags
from pmq.cli.output import costs, number, print_json, print_table, say
from pmq.cli.source import NO_FLAGS, Source
from pmq.pipeline.search.stopping import ROUNDS

if TYPE_CHECKING:
    from pmq.pipeline.search.result import SearchResult


@grouped
def search(
    model: o.Model = None,
    budget: Annotated[
        str,
        typer.Option(help="Budget: 4bit, w4a8, 0.15x, size=3MB, bitops=4G, latency=12ms, several with commas, or agreement>=99"),
    ] = "4bit",
    source: Source = NO_FLAGS,
    space: Annotated[str | None, typer.Option(help="Search space (default: the target's, or the one named default)")] = None,
    target: Annotated[
        str | None, typer.Option(help="Runtime to search for (default: onnxruntime if the budget is a latency, otherwise none)")
    ] = None,
    latency: Annotated[
        Path | None, typer.Option(help="Latency table file (default: the saved table, or one measured now)")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Use the latency table even if it was measured on another machine")
    ] = False,
    recipe: o.Recipe = "best",
    reconstruct: o.Reconstruct = False,
    patches: Annotated[str | None, typer.Option(help="Also allocate bits to single patches: static or dynamic")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Also search the widths of each block")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Also search how many tokens to merge behind each block")] = False,
    keep: o.Keep = None,
    exclude: o.Exclude = None,
    min_bits: o.MinBits = None,
    max_bits: o.MaxBits = None,
    tie: o.TieOption = None,
    metric: Annotated[
        str, typer.Option(help="Sensitivity metric: fisher_shrunk, measured (slower), ... (see pmq rank)")
    ] = "fisher_shrunk",
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which no round begins and no candidate is added", min=0)
    ] = None,
    max_evals: Annotated[int | None, typer.Option(help="Allocations after which rounds simulate no more", min=1)] = None,
    rounds: Annotated[int, typer.Option(help=f"Most rounds; above {ROUNDS} they end early without gain", min=1)] = ROUNDS,
    calib_images: o.CalibImages = 32,
    held_out: Annotated[
        int | None,
        typer.Option(
            help="Number of held-out images that measure sensitivity and evaluate candidates (default: 256, or all there are)",
            min=1,
        ),
    ] = None,
    batch_size: o.BatchSize = 32,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    memory: o.Memory = None,
    cluster: Cluster = NO_CLUSTER,
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Run directory (default: named after the settings below --results)")] = None,
    results: Annotated[Path, typer.Option(help="Folder of run directories")] = Path("results"),
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run with the same settings")] = False,
    task: o.Task = "auto",
    partial: o.Partial = False,
    json: o.Json = False,
) -> None:
    """Find the Pareto front of bit-width allocations and choose one within the budget.

    With a finished run in place of MODEL, solve its tables for another budget without any forward pass.
    """
    from pmq.api import search as run_search
    from pmq.cli.recorded import command_of, fill_from_pruned
    from pmq.cli.subject import open_subject, unpruned_reference
    from pmq.core import Budget
    from pmq.core.files import is_file
    from pmq.core.memory_limit import parse_bytes
    from pmq.core.rundir import MANIFEST, is_pruned
    from pmq.core.task import task_line
    from pmq.cost import LatencyTable
    from pmq.optimize.constraints import Constraints
    from pmq.pipeline.image_split import HELD_OUT
    from pmq.pipeline.latency_tables import known_latency
    from pmq.pipeline.search.options import DataSplit, RunOptions, SearchOptions
    from pmq.runtimes import TARGETS

    parsed_budget = Budget.parse(budget)  # fail before the model is loaded
    limit = None if memory is None else parse_bytes(memory)
    constraints = Constraints.parse(keep or (), exclude or (), min_bits, max_bits, tie or ())
    if model is not None and is_file(Path(model) / MANIFEST) and not is_pruned(Path(model)):
        _resolve(model, budget, json)
        return
    if latency is not None:
        target = target or LatencyTable.load(latency).target
    target = target or ("onnxruntime" if parsed_budget.limits.latency_ms is not None else None)
    if target is not None:
        TARGETS[target].require()
    ray, source = cluster.options(), fill_from_pruned(source.with_model(model))
    module, images = open_subject(source, workers, device, cluster.threads(threads))
    reference = unpruned_reference(module, source)
    timed = target is not None and (
        latency is not None or not TARGETS[target].whole
    )  # milliseconds of an NPU are not measured here
    table = known_latency(module, target, results, latency, force=force, prune=prune) if target and timed else None
    n_images = calib_images + (held_out or HELD_OUT)
    result = run_search(
        module,
        images.calibration_images(n_images if held_out else images.at_most(n_images, calib_images), seed),
        budget,
        space=space or target or "default",
        out=out,
        options=SearchOptions(
            latency=table,
            reference=reference,
            recipe=recipe,
            task=task,
            partial=partial,
            reconstruct=reconstruct,
            patches=patches,
            prune=prune,
            merge=merge,
            constraints=constraints,
            metric=metric,
            time_limit=time_limit,
            max_evals=max_evals,
            n_rounds=rounds,
            crop_pct=source.crop_pct,
        ),
        split=DataSplit(n_calibration=calib_images, n_held_out=held_out or HELD_OUT),
        run=RunOptions(
            batch_size=batch_size,
            seed=seed,
            results=results,
            resume=resume,
            memory=limit,
            ray=ray,
            command=command_of(source),
        ),
    )
    if json:
        _print_result_json(result)
        return
    _print_points(result, budget)
    say(as_flags(task_line(result.allocation.task or "classification", task, result.allocation.model.num_classes)))
    _print_rounds(result)
    _print_summary(result, source, target)


def _chosen_file(run: Path) -> Path:
    return run / "allocations" / "chosen.json"


def _print_result_json(result: SearchResult) -> None:
    assert result.run is not None and result.allocation.budget is not None
    chosen = result.allocation.budget.achieved | result.allocation.metrics
    patches = result.allocation.patches
    keys = ("size_bytes", "bit_ops", "latency_ms", "agreement", "kl", "feature_error")
    seconds = {"seconds": result.seconds["total"], "seconds_of": result.seconds}
    files = {"run": str(result.run), "allocation": str(_chosen_file(result.run)), "patches": patches and patches.label}
    covered = {"macs_searched": result.coverage.macs_searched, "bytes_searched": result.coverage.bytes_searched}
    print_json(files | {k: chosen.get(k) for k in keys} | covered | seconds)


def _print_points(result: SearchResult, budget: str) -> None:
    """Print the chosen allocation with the uniform ones and FP32."""
    points = result.points
    shown = points[points["source"].str.startswith(("uniform", "fp32")) | points["chosen"].fillna(False)]
    rows = []
    for _, row in shown.sort_values("bit_ops").iterrows():
        name = f"chosen for {budget}" if row["chosen"] is True else row["source"]
        error = row["kl"] if row["kl"] == row["kl"] else row["feature_error"]
        cost_cells = costs(row["size_bytes"], row["bit_ops"]) + ([row["latency_ms"]] if "latency_ms" in row else [])
        rows.append([name, *cost_cells, row["agreement"], error])
    n_images = int(shown["n_images"].max())
    title = f"{result.allocation.model.name}: {len(points)} allocations considered, these evaluated on {n_images} held-out images"
    latency = ["predicted ms"] if "latency_ms" in shown else []
    print_table(title, ["allocation", "MB", "bit ops (G)", *latency, "agreement %", "KL or error"], rows)


def _print_rounds(result: SearchResult) -> None:
    """Print the rounds of a search, and how well its predictions rank the simulated allocations."""
    rows = [
        [i + 1, r.simulated, r.error, r.measuring_s + r.solving_s + r.simulating_s]
        for i, r in enumerate(result.rounds.itertuples())
    ]
    print_table("rounds", ["round", "simulated so far", "lowest error within the budget", "s"], rows)
    for name, r in result.ranking.items():
        interval = f"{r['low']:.2f} to {r['high']:.2f}, {r['n']} allocations"
        say(f"prediction against simulation, {name.replace('_', ' ')}: Kendall's tau {r['tau']:.2f} ({interval})")


def _print_summary(result: SearchResult, source: Source, target: str | None) -> None:
    """Print the accuracy of the chosen allocation, the files and times of the run, and the next commands."""
    from pmq.cli.recorded import next_model
    from pmq.reporting.page import NAME

    assert result.run is not None and result.allocation.budget is not None
    patches = result.allocation.patches
    layerwise = result.allocation if result.without_patches is None else result.without_patches
    say(f"chosen allocation, quantized by recipe {layerwise.recipe.name!r}, on the same images: {_accuracy(layerwise.metrics)}")
    if patches is not None:
        achieved = result.allocation.budget.achieved
        cost = f"{number(achieved['bit_ops'] / 1e9)}G bit operations, {achieved['size_bytes'] / 1e6:.3f} MB"
        say(
            f"with bits of patches ({patches.label}; {cost}), on images that were not used for measurements: "
            f"{_accuracy(result.allocation.metrics)}"
        )
    times = ", ".join(f"{name} {number(seconds)} s" for name, seconds in result.seconds.items())
    arguments = shlex.quote(str(result.run)) + next_model(source)
    commands = f"pmq evaluate {arguments}" + (f"; pmq deploy {arguments}" if target else "")
    say(
        f"allocation: {_chosen_file(result.run)}",
        f"report: {result.run / NAME}",
        f"time: {times}; peak memory: {number(result.peak_bytes / 1e9)} GB",
        f"next: {commands}",
    )


def _accuracy(metrics: dict[str, float | None]) -> str:
    shown = {name: metrics.get(name) for name in ("agreement", "kl", "feature_error")}
    return ", ".join(f"{name} {number(value)}" for name, value in shown.items() if value is not None)


def _resolve(run: str, budget: str, json: bool) -> None:
    from pmq.api import resolve
    from pmq.cli.recorded import next_file, recorded_flags

    path, allocation = resolve(run, budget)
    assert allocation.budget is not None
    figures = allocation.budget.achieved | allocation.metrics
    if json:
        print_json(
            {"run": run, "allocation": str(path)}
            | {k: figures.get(k) for k in ("size_bytes", "bit_ops", "latency_ms", "predicted_error")}
        )
        return
    latency = [figures["latency_ms"]] if "latency_ms" in figures else []
    row = [budget, *costs(figures["size_bytes"] or 0, figures["bit_ops"] or 0), *latency, figures["predicted_error"]]
    print_table(
        f"{allocation.model.name}: the exact optimum by the tables of {run}",
        ["budget", "MB", "bit ops (G)", *(["ms"] if latency else []), "predicted error"],
        [row],
    )
    flags = recorded_flags(Path(run))
    source = replace(NO_FLAGS.with_flags(flags), base=flags.get("base"))
    source = source if source.model else source.with_model(allocation.model.name)
    say(f"allocation: {path}", f"next: pmq evaluate {next_file(path, source)} --recalibrate")
