"""``pmq deploy``: from an allocation to a file that a runtime executes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import number, print_json, print_table, say
from pmq.cli.run import latency_of, latest_or, remembered, run_of, show_report
from pmq.cli.source import NOTHING, Source, grouped

#: picture files that a proof looks at
PICTURES = 32


@grouped
def deploy(
    what: Annotated[str, typer.Argument(help="allocation file, run directory, latest, fp32, or uniform as w8a8")] = "latest",
    model: o.Model = None,
    target: Annotated[str | None, typer.Option(help="runtime: onnxruntime, ...; by default the allocation's")] = None,
    source: Source = NOTHING,
    recipe: o.Recipe = "best",
    calib_images: o.CalibImages = 32,
    recalibrate: Annotated[bool, typer.Option("--recalibrate", help="carry it out anew from images, not its tensors")] = False,
    limit: Annotated[int, typer.Option(help="images to prove on", min=1)] = 128,
    latency: Annotated[Path | None, typer.Option(help="latency table; by default the run's, or none")] = None,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="leave the batch size open")] = False,
    input: Annotated[
        str, typer.Option(help="what the file takes: float, prepared images, or uint8, values of pictures that it prepares")
    ] = "float",
    layout: Annotated[str, typer.Option(help="of what it takes: nchw, or nhwc as cameras and phones have it")] = "nchw",
    threads: Annotated[int, typer.Option(help="threads of the runtime, where it is timed", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="timed forward passes", min=3)] = 30,
    workers: o.Workers = 0,
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="folder to write; by default deploy/TARGET in the run")] = None,
    results: Annotated[Path, typer.Option(help="folder of run directories")] = Path("results"),
    task: o.Task = "auto",
    partial: o.Partial = False,
    json: o.Json = False,
) -> None:
    """Write an allocation as a model file, and prove that it computes what was simulated, at the speed that was promised."""
    from pmq.api.deploy import deploy as run_deploy
    from pmq.cli.subject import open_subject
    from pmq.core import Allocation, PmqError
    from pmq.core.paths import file_name
    from pmq.core.progress import message
    from pmq.core.spec import read_what
    from pmq.cost import LatencyTable
    from pmq.runtimes import TARGETS
    from pmq.runtimes.profile import fingerprint

    name = str(latest_or(None, results)) if what == "latest" else what
    item = read_what(name, carried_out=not recalibrate)
    allocations = [item] if isinstance(item, Allocation) else []
    target = target or next((a.target for a in allocations if a.target), "onnxruntime")
    TARGETS[target].require()
    run = run_of(name)
    table = latency_of(run) if latency is None else LatencyTable.load(latency)
    if latency is None and table is not None:
        try:
            table.check(fingerprint(TARGETS[target]), target=target, threads=threads)
        except PmqError as error:
            message(f"latency is not proved: {error}")
            table = None
    source = remembered([name], allocations, source.of(model))
    module, images = open_subject(source, workers, "cpu", None)
    used = max([calib_images, *(a.calibration.images_used for a in allocations if a.calibration)])
    drawn = next((a.calibration.seed for a in allocations if a.calibration and a.calibration.seed is not None), seed)
    indices = images.evaluation_indices(used, drawn, min(limit, len(images.evaluation)))
    proof = images.evaluation.first_readable(indices, len(indices))
    folder = out or (run or results / file_name(source.model or "embedded") / Path(name).stem) / "deploy" / target
    need = recalibrate or not (allocations or item == "fp32")
    found = run_deploy(
        module,
        item,
        target,
        proof,
        folder,
        calibration_images=images.calibration_images(calib_images, seed) if need else None,
        recalibrate=recalibrate,
        recipe=recipe,
        task=task,
        partial=partial,
        latency=table,
        dynamic_batch=dynamic_batch,
        input=input,
        layout=layout,
        pictures=images.evaluation.files_of(indices)[:PICTURES],
        threads=threads,
        rounds=rounds,
        crop_pct=source.crop_pct,
        seed=seed,
    )
    if json:
        keys = ["target", "size_bytes", "latency_ms", "fp32_latency_ms", "torch_latency_ms"]
        keys += ["whole_latency_ms", "predicted_latency_ms"]
        keys += ["agreement_simulated", "agreement_fp32", "passed"]
        print_json({"file": str(folder / found.file)} | {key: getattr(found, key) for key in keys})
    else:
        rows = [[part, "passed" if c.passed else "FAILED", c.found, c.limit, c.what] for part, c in found.proof.items()]
        print_table(f"{found.model} on {target}: {found.status}", ["proof", "", "found", "limit", "what"], rows)
        own, eager = found.fp32_latency_ms / found.latency_ms, found.torch_latency_ms / found.latency_ms
        of = f"{threads} thread(s), batch of 1"
        say(f"latency: {number(found.latency_ms)} ms ({of})")
        say(f"faster than unquantized in the same runtime {own:.2f}x, than eager PyTorch {eager:.2f}x")
        told = f"{number(found.agreement_fp32)} %, simulated {number(found.agreement_simulation_fp32)} %"
        if found.whole_latency_ms is not None:
            say(f"faster than with all its tokens {found.whole_latency_ms / found.latency_ms:.3f}x")
        say(f"agreement with FP32 on {found.n_images} images: {told}")
        say(f"size: {found.size_bytes / 1e6:.3f} MB", f"file: {folder / found.file}", f"next: {found.run[0]}")
    show_report(run if run is not None and folder.is_relative_to(run) else None, json)
    if not found.passed:
        message("pmq: the proof failed; the file is marked as failed")
        raise typer.Exit(1)
