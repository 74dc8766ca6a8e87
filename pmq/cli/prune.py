"""``pmq prune``: a smaller model, and the plan by which it can be rebuilt."""

from __future__ import annotations

import hashlib
import json as json_module
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pmq.cli import options as o
from pmq.cli.output import costs, print_json, print_table, say
from pmq.cli.run import command_of, named_again, show_report
from pmq.cli.source import NOTHING, Source, grouped

#: options by which a folder is not told from others
ROUND_TO, IMAGES, SEED = 8, 256, 0


@grouped
def prune(
    model: o.Model = None,
    ratio: Annotated[float, typer.Option(help="of channels to remove")] = 0.25,
    importance: Annotated[
        str, typer.Option(help="what stays: reconstruction, magnitude, magnitude_l1, taylor, hessian, random")
    ] = "reconstruction",
    structure: Annotated[
        list[str] | None, typer.Option(help="what may go: hidden, width, rank, heads, embedding; several times for several")
    ] = None,
    scope: Annotated[str, typer.Option(help="uniform: the ratio of each part; global: of all together")] = "uniform",
    part: Annotated[list[str] | None, typer.Option(help="ratios of single parts, as blocks.0.mlp=0.5; patterns do")] = None,
    round_to: Annotated[int, typer.Option(help="widths are multiples of it", min=1)] = ROUND_TO,
    recover: Annotated[bool, typer.Option(help="fit the layers behind what was removed anew, in closed form")] = True,
    source: Source = NOTHING,
    calib_images: Annotated[int, typer.Option(help="images that importance and recovery look at", min=1)] = IMAGES,
    target: Annotated[str | None, typer.Option(help="runtime to quantize and deploy the pruned model for, and time it")] = None,
    limit: Annotated[int | None, typer.Option(help="images to evaluate on; all without", min=1)] = None,
    batch_size: o.BatchSize = 32,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    seed: o.Seed = SEED,
    out: Annotated[Path | None, typer.Option(help="folder to write; by default named below --results")] = None,
    results: Annotated[Path, typer.Option(help="folder of run directories")] = Path("results"),
    task: o.Task = "auto",
    json: o.Json = False,
) -> None:
    """Remove the channels that matter least, and fit what reads the others anew.

    What it writes is a model: give its folder in place of MODEL to search, profile, evaluate or deploy it.
    """
    from pmq.api import evaluate as run_evaluate
    from pmq.api import prune as run_prune
    from pmq.api.formats import deploy_formats
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
    source = source.of(model)
    module, images = open_subject(source, workers, device, threads)
    from pmq.core.paths import architecture

    name = architecture(model_info(module).name)
    others = {"structures": structure, "parts": ratios or None, "round_to": round_to, "calib_images": calib_images, "seed": seed}
    folder = out or results / name / f"pruned-{importance}-{ratio:g}-{scope}{'' if recover else '-cut'}{_digest(others)}"
    check_target(folder / CHOSEN)
    if is_file(folder / MANIFEST) and not is_pruned(folder):
        raise PmqError(f"{str(folder)!r} holds another run, which would be lost; choose another --out")
    calibration = images.calibration_images(calib_images, seed)
    found = run_prune(
        module,
        calibration,
        ratio,
        importance=importance,
        structures=structure,
        scope=scope,
        ratios=ratios,
        round_to=round_to,
        recovery=recover,
        calib_images=calib_images,
        crop_pct=source.crop_pct,
        seed=seed,
        out=folder,
        task=task,
    )
    indices = images.evaluation_indices(calib_images, seed, limit)
    rows: dict[str, Allocation | str] = {"fp32": "fp32", "pruned": found.cut}
    if recover:
        rows["recovered"] = found.allocation
    batches = track(images.evaluation.batches(batch_size, indices), "evaluating", total=-(-len(indices) // batch_size))
    table = run_evaluate(module, list(rows.values()), batches, crop_pct=source.crop_pct, seed=seed, task=task)
    table["allocation"] = list(rows)
    records = json_module.loads(table.to_json(orient="records"))
    plan = found.allocation.pruning
    assert plan is not None
    add_to_manifest(folder, {PRUNED: records[-1] | {"parameters": plan.parameters}, "command": command_of(source)})
    deployed = []
    if target is not None:
        pruned = load_pruned(found.allocation)
        proof = images.evaluation.first_readable(indices[:128], 128)
        below = folder / "deploy" / target
        deployed = deploy_formats(pruned, target, proof, calibration[:32], below, reference=module, seed=seed, task=task)
    if json:
        said: dict[str, Any] = {"run": str(folder), "allocation": str(folder / CHOSEN), "parameters": plan.parameters}
        print_json(said | records[-1] | {"before_recovery": records[1], "deployed": deployed})
        show_report(folder, json)
        return
    shown = [
        [r["allocation"], f"{r['param_count']:.2f}", *costs(r["size_bytes"], r["bit_ops"]), r["top1"], r["agreement"], r["kl"]]
        for r in records
    ]
    columns = ["", "parameters (M)", "MB", "bit ops (G)", "top-1 %", "agreement %", "KL"]
    title = f"{name}, {100 * ratio:g} % of channels removed by {importance}, on {records[0]['n_images']} images"
    print_table(title, columns, shown)
    if deployed:
        _print_deployed(deployed, target)
    own = shlex.quote(str(folder))
    own += named_again(replace(source, base=source.base or source.model))
    then = f"pmq search {own} --budget 4bit; pmq deploy w8a8 {own} --target onnxruntime"
    say(f"pruned model: {folder}", f"next: {then}")
    show_report(folder, json)


def _digest(options: dict[str, Any]) -> str:
    """A suffix that tells models apart which were not pruned by the default options."""
    defaults = {"structures": None, "parts": None, "round_to": ROUND_TO, "calib_images": IMAGES, "seed": SEED}
    text = json_module.dumps(options, sort_keys=True)
    return "" if options == defaults else f"-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _ratios(parts: list[str]) -> dict[str, float]:
    from pmq.core import PmqError

    found = {}
    for part in parts:
        name, _, ratio = part.rpartition("=")
        try:
            found[name] = float(ratio)
        except ValueError:
            raise PmqError(f"--part {part!r} is not understood; write NAME=RATIO, as blocks.0.mlp=0.5") from None
    return found


def _print_deployed(deployed: list[dict[str, Any]], target: str | None) -> None:
    rows = [["unpruned fp32", None, deployed[0]["unpruned_latency_ms"], 1.0, None, None, ""]]
    for row in deployed:
        times = [row["latency_ms"], row["unpruned_latency_ms"] / row["latency_ms"]]
        proved = "yes" if row["passed"] else "NO"
        rows.append([f"pruned {row['what']}", row["size_bytes"] / 1e6, *times, row["agreement"], row["kl"], proved])
    columns = ["file", "MB", "ms", "x faster", "agreement %", "KL", "proved"]
    print_table(f"deployed on {target}, one image, one thread; on {deployed[0]['n_images']} images", columns, rows)
