"""``pmq prune``: prune a model and write the plan by which the pruned model can be rebuilt."""

from __future__ import annotations

import hashlib
import json as json_module
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pmq.cli import options as o
from pmq.cli.grouped import grouped
from pmq.cli.output import costs, print_json, print_table, say
from pmq.cli.recorded import command_of, next_model, show_report
from pmq.cli.source import NO_FLAGS, Source

#: default options, which add no suffix to the name of the folder
ROUND_TO, IMAGES, SEED = 8, 256, 0


@grouped
def prune(
    model: o.Model = None,
    ratio: Annotated[float, typer.Option(help="Share of the channels to remove")] = 0.25,
    importance: Annotated[
        str,
        typer.Option(
            help="Importance that selects the channels: reconstruction, magnitude, magnitude_l1, taylor, hessian, random"
        ),
    ] = "reconstruction",
    structure: Annotated[
        list[str] | None,
        typer.Option(help="Structure that may be pruned: hidden, width, rank, heads, embedding; may be repeated"),
    ] = None,
    scope: Annotated[
        str, typer.Option(help="Scope of the ratio: uniform (each part) or global (all parts together)")
    ] = "uniform",
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Ratio of single parts as NAME=RATIO, such as blocks.0.mlp=0.5; NAME may be a pattern; may be repeated"
        ),
    ] = None,
    round_to: Annotated[int, typer.Option(help="Number of which the remaining widths are multiples", min=1)] = ROUND_TO,
    recover: Annotated[
        bool, typer.Option(help="Refit the layers that read the pruned channels by least squares, in closed form")
    ] = True,
    source: Source = NO_FLAGS,
    calib_images: Annotated[int, typer.Option(help="Number of images that importance and recovery use", min=1)] = IMAGES,
    target: Annotated[
        str | None, typer.Option(help="Runtime for which the pruned model is also quantized, deployed and timed")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Number of images to evaluate on (default: all)", min=1)] = None,
    batch_size: o.BatchSize = 32,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    seed: o.Seed = SEED,
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: named after the options below --results)")] = None,
    results: Annotated[Path, typer.Option(help="Folder of run directories")] = Path("results"),
    task: o.Task = "auto",
    json: o.Json = False,
) -> None:
    """Remove the least important channels, and refit the layers that read the remaining ones.

    The written folder is a model: pass it in place of MODEL to search, profile, evaluate or deploy it.
    """
    from pmq.api import evaluate as run_evaluate
    from pmq.api import prune as run_prune
    from pmq.cli.deployed_formats import deploy_formats
    from pmq.cli.subject import open_subject
    from pmq.core import Allocation, PmqError
    from pmq.core.files import check_target, is_file
    from pmq.core.progress import track
    from pmq.core.rundir import CHOSEN, MANIFEST, PRUNED, add_to_manifest, is_pruned
    from pmq.models import model_info
    from pmq.pipeline.pruned_model import load_pruned

    if target is not None:
        from pmq.runtimes import TARGETS

        TARGETS[target].require()
    ratios = _ratios(part or [])
    source = source.with_model(model)
    module, images = open_subject(source, workers, device, threads)
    from pmq.core.paths import architecture

    name = architecture(model_info(module).name)
    options = {"structures": structure, "parts": ratios or None, "round_to": round_to, "calib_images": calib_images, "seed": seed}
    folder = out or results / name / f"pruned-{importance}-{ratio:g}-{scope}{'' if recover else '-cut'}{_digest(options)}"
    check_target(folder / CHOSEN)
    if is_file(folder / MANIFEST) and not is_pruned(folder):
        raise PmqError(f"{str(folder)!r} contains another run, which would be lost; choose another folder with --out")
    calibration = images.calibration_images(calib_images, seed)
    result = run_prune(
        module,
        calibration,
        ratio,
        importance=importance,
        structures=structure,
        scope=scope,
        ratios=ratios,
        round_to=round_to,
        recovery=recover,
        n_calibration=calib_images,
        crop_pct=source.crop_pct,
        seed=seed,
        out=folder,
        task=task,
    )
    indices = images.evaluation_indices(calib_images, seed, limit)
    rows: dict[str, Allocation | str] = {"fp32": "fp32", "pruned": result.cut}
    if recover:
        rows["recovered"] = result.allocation
    batches = track(images.evaluation.batches(batch_size, indices), "evaluating", total=-(-len(indices) // batch_size))
    table = run_evaluate(module, list(rows.values()), batches, crop_pct=source.crop_pct, seed=seed, task=task)
    table["allocation"] = list(rows)
    records = json_module.loads(table.to_json(orient="records"))
    plan = result.allocation.pruning
    assert plan is not None
    add_to_manifest(folder, {PRUNED: records[-1] | {"parameters": plan.parameters}, "command": command_of(source)})
    deployed = []
    if target is not None:
        pruned = load_pruned(result.allocation)
        proof = images.evaluation.first_readable(indices[:128], 128)
        files = folder / "deploy" / target
        deployed = deploy_formats(pruned, target, proof, calibration[:32], files, reference=module, seed=seed, task=task)
    if json:
        summary: dict[str, Any] = {"run": str(folder), "allocation": str(folder / CHOSEN), "parameters": plan.parameters}
        print_json(summary | records[-1] | {"before_recovery": records[1], "deployed": deployed})
        show_report(folder, json)
        return
    _print_models(records, f"{name}, {100 * ratio:g} % of channels removed by {importance}")
    if deployed:
        _print_deployed(deployed, target)
    arguments = shlex.quote(str(folder)) + next_model(replace(source, base=source.base or source.model))
    commands = f"pmq search {arguments} --budget 4bit; pmq deploy w8a8 {arguments} --target onnxruntime"
    say(f"pruned model: {folder}", f"next: {commands}")
    show_report(folder, json)


def _print_models(records: list[dict[str, Any]], title: str) -> None:
    """Print size and accuracy of the model before pruning, after pruning and after recovery."""
    rows = [
        [r["allocation"], f"{r['param_count']:.2f}", *costs(r["size_bytes"], r["bit_ops"]), r["top1"], r["agreement"], r["kl"]]
        for r in records
    ]
    columns = ["", "parameters (M)", "MB", "bit ops (G)", "top-1 %", "agreement %", "KL"]
    print_table(f"{title}, on {records[0]['n_images']} images", columns, rows)


def _digest(options: dict[str, Any]) -> str:
    """Return a suffix of a folder's name that distinguishes models pruned with other than the default options."""
    defaults = {"structures": None, "parts": None, "round_to": ROUND_TO, "calib_images": IMAGES, "seed": SEED}
    text = json_module.dumps(options, sort_keys=True)
    return "" if options == defaults else f"-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _ratios(parts: list[str]) -> dict[str, float]:
    from pmq.core import PmqError

    ratios = {}
    for part in parts:
        name, _, ratio = part.rpartition("=")
        try:
            ratios[name] = float(ratio)
        except ValueError:
            raise PmqError(f"--part {part!r} is not valid; write NAME=RATIO, such as blocks.0.mlp=0.5") from None
    return ratios


def _print_deployed(deployed: list[dict[str, Any]], target: str | None) -> None:
    """Print size, latency and accuracy of the deployed files, compared with the unpruned FP32 model."""
    rows = [["unpruned fp32", None, deployed[0]["unpruned_latency_ms"], 1.0, None, None, ""]]
    for row in deployed:
        times = [row["latency_ms"], row["unpruned_latency_ms"] / row["latency_ms"]]
        proved = "yes" if row["passed"] else "NO"
        rows.append([f"pruned {row['what']}", row["size_bytes"] / 1e6, *times, row["agreement"], row["kl"], proved])
    columns = ["file", "MB", "ms", "x faster", "agreement %", "KL", "proved"]
    print_table(
        f"deployed on {target}: latency of one image on one thread, accuracy on {deployed[0]['n_images']} images", columns, rows
    )
