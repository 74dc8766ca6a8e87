"""``pmq deploy``: write an allocation as a model file for a runtime and prove it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmq.cli import options as o
from pmq.cli.grouped import grouped
from pmq.cli.output import number, print_json, print_table, say
from pmq.cli.recorded import LATEST, fill_from_runs, latency_of, latest_or, run_of, show_report
from pmq.cli.source import NO_FLAGS, Source
from pmq.core.run_files import BUNDLE

if TYPE_CHECKING:
    from pmq.runtimes.deployment import Deployment

#: picture files on which a proof compares the preprocessing
PICTURES = 32


@grouped
def deploy(
    what: Annotated[
        str, typer.Argument(help="Allocation file, run directory, latest, fp32, or uniform bits such as w8a8")
    ] = LATEST,
    model: o.Model = None,
    target: Annotated[
        str | None, typer.Option(help="Runtime: onnxruntime, ... (default: the allocation's target, or onnxruntime)")
    ] = None,
    source: Source = NO_FLAGS,
    recipe: o.Recipe = "best",
    calib_images: o.CalibImages = 32,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Quantize the model from images instead of the saved tensors")
    ] = False,
    limit: Annotated[int, typer.Option(help="Number of images used by the proof", min=1)] = 128,
    latency: Annotated[
        Path | None, typer.Option(help="Latency table file (default: the table of the run, if it has one)")
    ] = None,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Export a file that accepts any batch size")] = False,
    input: Annotated[
        str, typer.Option(help="Input of the file: float (preprocessed images) or uint8 (pixel values, which it preprocesses)")
    ] = "float",
    layout: Annotated[str, typer.Option(help="Layout of the input: nchw, or nhwc as cameras and phones provide it")] = "nchw",
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Also write a folder that checks the file on another device, layer by layer")
    ] = False,
    threads: Annotated[int, typer.Option(help="Number of threads of the runtime while it is timed", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="Number of timed forward passes", min=3)] = 30,
    workers: o.Workers = 0,
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: deploy/TARGET in the run)")] = None,
    results: Annotated[Path, typer.Option(help="Folder of run directories")] = Path("results"),
    task: o.Task = "auto",
    partial: o.Partial = False,
    json: o.Json = False,
) -> None:
    """Write an allocation as a model file and prove that it matches the simulation and the predicted latency."""
    from pmq.api import deploy as run_deploy
    from pmq.cli.subject import open_subject
    from pmq.core import Allocation, PmqError
    from pmq.core.paths import file_name
    from pmq.core.progress import message
    from pmq.core.spec import read_what
    from pmq.cost import LatencyTable
    from pmq.runtimes import TARGETS
    from pmq.runtimes.profile import fingerprint

    name = latest_or(what, results)
    item = read_what(name, with_tensors=not recalibrate)
    allocations = [item] if isinstance(item, Allocation) else []
    whole = {TARGETS[each].norms_written_out: each for each in TARGETS if TARGETS[each].whole}
    written_for = [a.target or whole[a.norms_written_out] for a in allocations if a.target or a.whole]
    target = target or next(iter(written_for), "onnxruntime")
    TARGETS[target].require()
    run = run_of(name)
    table = latency_of(run) if latency is None else LatencyTable.load(latency)
    if latency is None and table is not None:
        try:
            table.check(fingerprint(TARGETS[target]), target=target, threads=threads)
        except PmqError as error:
            message(f"the latency will not be proved: {error}")
            table = None
    source = fill_from_runs([name], allocations, source.with_model(model))
    module, images = open_subject(source, workers, "cpu", None)
    used = max([calib_images, *(a.calibration.images_used for a in allocations if a.calibration)])
    seed_of_used = next((a.calibration.seed for a in allocations if a.calibration and a.calibration.seed is not None), seed)
    indices = images.evaluation_indices(used, seed_of_used, min(limit, len(images.evaluation)))
    proof = images.evaluation.first_readable(indices, len(indices))
    folder = out or (run or results / file_name(source.model or "embedded") / Path(name).stem) / "deploy" / target
    needs_images = recalibrate or not (allocations or item == "fp32")
    deployment = run_deploy(
        module,
        item,
        target,
        proof,
        folder,
        calibration_images=images.calibration_images(calib_images, seed) if needs_images else None,
        recalibrate=recalibrate,
        recipe=recipe,
        task=task,
        partial=partial,
        latency=table,
        dynamic_batch=dynamic_batch,
        input=input,
        layout=layout,
        pictures=images.evaluation.files_of(indices)[:PICTURES],
        bundle=bundle,
        threads=threads,
        n_passes=rounds,
        crop_pct=source.crop_pct,
        seed=seed,
    )
    if json:
        keys = ["target", "size_bytes", "latency_ms", "fp32_latency_ms", "torch_latency_ms"]
        keys += ["whole_latency_ms", "predicted_latency_ms"]
        keys += ["agreement_simulated", "agreement_fp32", "passed"]
        print_json({"file": str(folder / deployment.file)} | {key: getattr(deployment, key) for key in keys})
    else:
        _print_deployment(deployment, folder, target, threads)
    show_report(run if run is not None and folder.is_relative_to(run) else None, json)
    if not deployment.passed:
        message("pmq: the proof failed; the file name contains 'failed'")
        raise typer.Exit(1)


def _print_deployment(deployment: Deployment, folder: Path, target: str, threads: int) -> None:
    """Print the proof of a deployed file, its latency, agreement and size."""
    rows = [[part, "passed" if c.passed else "FAILED", c.measured, c.limit, c.what] for part, c in deployment.proof.items()]
    print_table(f"{deployment.model} on {target}: {deployment.status}", ["proof", "", "measured", "limit", "description"], rows)
    latency = deployment.latency_ms
    say(f"latency: {number(latency)} ms ({threads} thread(s), batch of 1)")
    unquantized, eager = deployment.fp32_latency_ms / latency, deployment.torch_latency_ms / latency
    say(f"speedup over the unquantized model in the same runtime: {unquantized:.2f}x, over eager PyTorch: {eager:.2f}x")
    if deployment.whole_latency_ms is not None:
        say(f"speedup over the same file with all tokens: {deployment.whole_latency_ms / latency:.3f}x")
    if deployment.agreement_fp32 is not None:  # dense outputs and features have none
        agreement = f"{number(deployment.agreement_fp32)} %, simulated {number(deployment.agreement_simulation_fp32)} %"
        say(f"agreement with FP32 on {deployment.n_images} images: {agreement}")
    if (folder / BUNDLE).is_dir():
        say(f"check on a device: {folder / BUNDLE / 'README.md'}")
    say(f"size: {deployment.size_bytes / 1e6:.3f} MB", f"file: {folder / deployment.file}", f"next: {deployment.run[0]}")
