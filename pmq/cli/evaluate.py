"""``pmq evaluate``: evaluate allocations by simulation."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from pmq.cli import options as o
from pmq.cli.cluster import NO_CLUSTER, Cluster
from pmq.cli.grouped import grouped
from pmq.cli.hints import as_flags
from pmq.cli.output import costs, print_json, print_table, say
from pmq.cli.recorded import LATEST, fill_from_runs, latest_or
from pmq.cli.source import NO_FLAGS, Source


@grouped
def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            help="Allocation file, run directory, latest, fp32, or uniform bits such as w4a4; separate several by commas"
        ),
    ] = LATEST,
    model: o.Model = None,
    source: Source = NO_FLAGS,
    space: o.Space = "default",
    recipe: o.Recipe = "best",
    reconstruct: o.Reconstruct = False,
    amp: o.Amp = False,
    calib_images: o.CalibImages = 32,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Refit the ranges from images, for example for other weights of the model")
    ] = False,
    batch_size: o.BatchSize = 32,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    cluster: Cluster = NO_CLUSTER,
    seed: o.Seed = 0,
    limit: Annotated[int | None, typer.Option(help="Number of images to evaluate on (default: all)", min=1)] = None,
    results: Annotated[Path, typer.Option(help="Folder of run directories")] = Path("results"),
    results_file: Annotated[
        Path | None, typer.Option(help="CSV file to write, with timm's columns followed by those of pmq")
    ] = None,
    task: o.Task = "auto",
    partial: o.Partial = False,
    json: o.Json = False,
) -> None:
    """Evaluate allocations: top-1, top-5, agreement with FP32, KL divergence of the logits and images per second."""
    from pmq.api import evaluate as run_evaluate
    from pmq.cli.subject import open_subject
    from pmq.core import Allocation, PmqError
    from pmq.core.files import write_csv
    from pmq.core.run_files import check_output
    from pmq.core.spec import read_what
    from pmq.core.task import task_line

    names = [latest_or(name, results) for name in what.split(",")]
    if results_file is not None:
        check_output(results_file, ".csv", [*names, source.checkpoint])
    items = [read_what(name, with_tensors=not recalibrate) for name in names]
    allocations = [item for item in items if isinstance(item, Allocation)]
    source = fill_from_runs(names, allocations, source.with_model(model))
    ray = cluster.options()
    module, images = open_subject(source, workers, device, cluster.threads(threads))
    if limit is not None and limit > len(images.evaluation):
        raise PmqError(
            f"--limit {limit} exceeds the {len(images.evaluation)} images of {images.evaluation.name}; lower it or leave it out"
        )
    calibrated = [a.calibration for a in allocations if a.calibration is not None]
    seeds = {c.seed for c in calibrated} | ({seed} if recalibrate or len(calibrated) < len(items) else set())
    if images.shared and len(seeds) > 1:
        raise PmqError(
            f"seeds {sorted(map(str, seeds))} calibrated on different images of one folder; evaluate them one at a time"
        )
    used = max([calib_images, *(c.images_used for c in calibrated)])
    indices = images.evaluation_indices(used, next(iter(seeds)) or 0, limit)
    needs_images = recalibrate or any(isinstance(i, str) and i != "fp32" for i in items)
    table = run_evaluate(
        module,
        items,
        images.evaluation_shards(batch_size, indices),
        calibration_images=images.calibration_images(calib_images, seed) if needs_images else None,
        space=space,
        recipe=recipe,
        task=task,
        partial=partial,
        reconstruct=reconstruct,
        amp=amp,
        checkpoints=results / ".learned",
        recalibrate=recalibrate,
        crop_pct=source.crop_pct,
        seed=seed,
        ray=ray,
    )
    table["allocation"] = names
    table["n_unreadable"] = len(images.evaluation.unreadable)
    if results_file is not None:
        write_csv(results_file, table)
    records = json_module.loads(table.to_json(orient="records"))
    if json:
        print_json(records[0] if len(records) == 1 else {"results": records})
        return
    _print_records(records, images.evaluation.name, amp)
    say(as_flags(task_line(table.attrs["task"], task, table.attrs["outputs"])))


def _print_records(records: list[dict[str, Any]], images: str, amp: bool) -> None:
    """Print one row per evaluated allocation; models of features have other columns than classifiers."""
    rows = [
        [
            (r["allocation"], f"patches: {r['patches']}") if r["patches"] else r["allocation"],
            *(r[k] for k in ("top1", "top5", "agreement")),
            r["kl"] if r["kl"] is not None else r["feature_error"],
            *costs(r["size_bytes"], r["bit_ops"]),
            r["images_per_s"],
        ]
        for r in records
    ]
    columns = ["allocation", "top-1 %", "top-5 %", "agreement %", "KL or error", "MB", "bit ops (G)", "images/s"]
    if amp:
        columns.append("as in FP32 %")
        rows = [[*row, r["amp_agreement"]] for row, r in zip(rows, records, strict=True)]
    if any(r["cosine"] is not None for r in records):  # features make no decisions, so neighbours are compared instead
        columns[1:4] = ["cosine", "same neighbour %", "k-NN top-1 %"]
        neighbours = ([r[key] for key in ("cosine", "neighbour_agreement", "knn_top1")] for r in records)
        rows = [[row[0], *figures, *row[4:]] for row, figures in zip(rows, neighbours, strict=True)]
    print_table(f"{records[0]['model']} on {records[0]['n_images']} images of {images}", columns, rows)
