"""``pmq search``: from a model, images and a budget to an allocation."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import costs, number, print_json, print_table, say
from pmq.cli.source import NOTHING, Source, grouped


@grouped
def search(
    model: o.Model = None,
    budget: Annotated[
        str, typer.Option(help="4bit, w4a8, 0.15x, size=3MB, bitops=4G, latency=12ms, several; or agreement>=99")
    ] = "4bit",
    source: Source = NOTHING,
    space: Annotated[str | None, typer.Option(help="search space; the target's own, or default, without")] = None,
    target: Annotated[str | None, typer.Option(help="runtime to search for; onnxruntime where the budget is a latency")] = None,
    latency: Annotated[Path | None, typer.Option(help="latency table; without it the kept one, or one measured now")] = None,
    force: Annotated[bool, typer.Option("--force", help="use a latency table of another machine")] = False,
    recipe: o.Recipe = "best",
    reconstruct: o.Reconstruct = False,
    patches: Annotated[str | None, typer.Option(help="give each patch bits of its own: static or dynamic")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="decide as well how much is kept of each block")] = False,
    keep: o.Keep = None,
    exclude: o.Exclude = None,
    min_bits: o.MinBits = None,
    max_bits: o.MaxBits = None,
    tie: o.TieOption = None,
    metric: Annotated[
        str, typer.Option(help="sensitivity: fisher_shrunk, measured (slower), ... see pmq rank")
    ] = "fisher_shrunk",
    time_limit: Annotated[float | None, typer.Option(help="seconds after which no round begins", min=0)] = None,
    max_evals: Annotated[int | None, typer.Option(help="allocations to simulate in rounds", min=1)] = None,
    rounds: Annotated[int, typer.Option(help="rounds at most; fewer if nothing is gained", min=1)] = 4,
    calib_images: o.CalibImages = 32,
    held_out: Annotated[
        int | None, typer.Option(help="further images that measure and judge: 256, or what there is", min=1)
    ] = None,
    batch_size: o.BatchSize = 32,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="run directory; by default named below --results")] = None,
    results: Annotated[Path, typer.Option(help="folder of run directories")] = Path("results"),
    resume: Annotated[bool, typer.Option("--resume", help="go on with the same run if it was killed")] = False,
    task: o.Task = "auto",
    partial: o.Partial = False,
    json: o.Json = False,
) -> None:
    """Find the Pareto front of bit-width allocations and pick one within the budget.

    With a finished run in place of MODEL: solve its tables for another budget, without any forward pass.
    """
    from pmq.api import search as run_search
    from pmq.api.profile import known_latency
    from pmq.cli.run import command_of, named_again, of_pruned
    from pmq.cli.subject import before_pruning, open_subject
    from pmq.core import Budget
    from pmq.core.files import is_file
    from pmq.core.rundir import MANIFEST, is_pruned
    from pmq.core.task import task_line
    from pmq.cost import LatencyTable
    from pmq.optimize.constraints import Constraints
    from pmq.pipeline.search.options import DataSplit, RunOptions, SearchOptions
    from pmq.pipeline.subject import HELD_OUT
    from pmq.reporting.page import NAME
    from pmq.runtimes import TARGETS

    asked = Budget.parse(budget)  # before the model is loaded
    constraints = Constraints.parse(keep or (), exclude or (), min_bits, max_bits, tie or ())
    if model is not None and is_file(Path(model) / MANIFEST) and not is_pruned(Path(model)):
        _solve_again(model, budget, json)
        return
    if latency is not None:
        target = target or LatencyTable.load(latency).target
    target = target or ("onnxruntime" if asked.limits.latency_ms is not None else None)
    if target is not None:
        TARGETS[target].require()
    source = of_pruned(source.of(model))
    module, images = open_subject(source, workers, device, threads)
    reference = before_pruning(module, source)
    table = None if target is None else known_latency(module, target, results, latency, force=force, prune=prune)
    wanted = calib_images + (held_out or HELD_OUT)
    found = run_search(
        module,
        images.calibration_images(wanted if held_out else images.at_most(wanted, calib_images), seed),
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
            constraints=constraints,
            metric=metric,
            time_limit=time_limit,
            max_evals=max_evals,
            n_rounds=rounds,
            crop_pct=source.crop_pct,
        ),
        split=DataSplit(n_calibration=calib_images, n_held_out=held_out or HELD_OUT),
        run=RunOptions(batch_size=batch_size, seed=seed, results=results, resume=resume, command=command_of(source)),
    )
    assert found.run is not None and found.allocation.budget is not None
    chosen = found.allocation.budget.achieved | found.allocation.metrics
    path, patched = found.run / "allocations" / "chosen.json", found.allocation.patches
    if json:
        keys = ("size_bytes", "bit_ops", "latency_ms", "agreement", "kl", "feature_error")
        seconds = {"seconds": found.seconds["total"], "seconds_of": found.seconds}
        said = {"run": str(found.run), "allocation": str(path), "patches": patched and patched.label}
        covered = {"macs_searched": found.coverage.macs_searched, "bytes_searched": found.coverage.bytes_searched}
        print_json(said | {k: chosen.get(k) for k in keys} | covered | seconds)
        return
    points = found.points
    judged = points[points["source"].str.startswith(("uniform", "fp32")) | points["chosen"].fillna(False)]
    rows = []
    for _, row in judged.sort_values("bit_ops").iterrows():
        name = f"chosen for {budget}" if row["chosen"] is True else row["source"]
        error = row["kl"] if row["kl"] == row["kl"] else row["feature_error"]
        spent = costs(row["size_bytes"], row["bit_ops"]) + ([row["latency_ms"]] if "latency_ms" in row else [])
        rows.append([name, *spent, row["agreement"], error])
    n = len(points)
    n_images = int(judged["n_images"].max())
    title = f"{found.allocation.model.name}: {n} allocations looked at, these judged on {n_images} held-out images"
    measured = ["predicted ms"] if "latency_ms" in judged else []
    print_table(title, ["allocation", "MB", "bit ops (G)", *measured, "agreement %", "KL or error"], rows)
    say(task_line(found.allocation.task or "classification", task, found.allocation.model.num_classes))
    rows = [
        [i + 1, r.simulated, r.error, r.measuring_s + r.solving_s + r.simulating_s]
        for i, r in enumerate(found.rounds.itertuples())
    ]
    print_table("rounds", ["round", "simulated so far", "least error within the budget", "s"], rows)
    for name, r in found.ranking.items():
        interval = f"{r['low']:.2f} to {r['high']:.2f}, {r['n']} allocations"
        say(f"prediction against simulation, {name.replace('_', ' ')}: Kendall's tau {r['tau']:.2f} ({interval})")
    whole = found.allocation if found.without_patches is None else found.without_patches
    say(f"the chosen one, carried out by recipe {whole.recipe.name!r}, on the same images: {_accuracy(whole.metrics)}")
    if patched is not None:
        say(f"with bits of patches ({patched.label}), on those that measured nothing: {_accuracy(found.allocation.metrics)}")
        took = found.allocation.budget.achieved
        say(f"which takes {number(took['bit_ops'] / 1e9)}G bit operations and {took['size_bytes'] / 1e6:.3f} MB")
    parts = ", ".join(f"{name} {number(seconds)} s" for name, seconds in found.seconds.items())
    own = shlex.quote(str(found.run))
    own += named_again(source)
    then = f"pmq evaluate {own}" + (f"; pmq deploy {own}" if target else "")
    say(f"allocation: {path}", f"report: {found.run / NAME}", f"time: {parts}", f"next: {then}")


def _accuracy(metrics: dict[str, float | None]) -> str:
    told = {name: metrics.get(name) for name in ("agreement", "kl", "feature_error")}
    return ", ".join(f"{name} {number(value)}" for name, value in told.items() if value is not None)


def _solve_again(run: str, budget: str, json: bool) -> None:
    from pmq.api.resolve import solve_again
    from pmq.cli.run import going_on, started_with

    path, allocation = solve_again(run, budget)
    assert allocation.budget is not None
    found = allocation.budget.achieved | allocation.metrics
    if json:
        print_json(
            {"run": run, "allocation": str(path)}
            | {k: found.get(k) for k in ("size_bytes", "bit_ops", "latency_ms", "predicted_error")}
        )
        return
    measured = [found["latency_ms"]] if "latency_ms" in found else []
    row = [budget, *costs(found["size_bytes"] or 0, found["bit_ops"] or 0), *measured, found["predicted_error"]]
    print_table(
        f"{allocation.model.name}: the exact optimum by the tables of {run}",
        ["budget", "MB", "bit ops (G)", *(["ms"] if measured else []), "predicted error"],
        [row],
    )
    told = started_with(Path(run))
    again = replace(NOTHING.with_flags(told), base=told.get("base"))
    again = again if again.model else again.of(allocation.model.name)
    say(f"allocation: {path}", f"next: pmq evaluate {going_on(path, again)} --recalibrate")
