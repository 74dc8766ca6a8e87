"""``pmq sensitivity``: measure sensitivity tables without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.cluster import NO_CLUSTER, Cluster
from pmq.cli.grouped import grouped
from pmq.cli.output import print_json, print_table, say
from pmq.cli.source import NO_FLAGS, Source


@grouped
def sensitivity(
    model: o.Model = None,
    metric: Annotated[str, typer.Option(help="Metrics, separated by commas: measured, fisher, ... (see pmq rank)")] = "measured",
    source: Source = NO_FLAGS,
    space: o.Space = "default",
    recipe: o.Recipe = "fast",
    calib_images: o.CalibImages = 24,
    batch_size: o.BatchSize = 24,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    memory: o.Memory = None,
    cluster: Cluster = NO_CLUSTER,
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="CSV file to write the whole table to")] = None,
    task: o.Task = "auto",
    partial: o.Partial = False,
    json: o.Json = False,
) -> None:
    """Measure the error at the output caused by each bit-width of each component."""
    from pmq.api import sensitivity as run_sensitivity
    from pmq.cli.subject import open_subject
    from pmq.core.files import write_csv
    from pmq.core.memory_limit import parse_bytes
    from pmq.core.run_files import check_output

    if out is not None:
        check_output(out, ".csv", [source.checkpoint])
    limit = None if memory is None else parse_bytes(memory)
    ray = cluster.options()
    module, images = open_subject(source.with_model(model), workers, device, cluster.threads(threads))
    table = run_sensitivity(
        module,
        images.calibration_images(2 * calib_images, seed),
        tuple(metric.split(",")),
        space=space,
        recipe=recipe,
        task=task,
        partial=partial,
        n_calibration=calib_images,
        batch_size=batch_size,
        seed=seed,
        ray=ray,
        memory=limit,
    )
    seconds = table.attrs["seconds"]
    if out is not None:
        write_csv(out, table)
    if json:
        print_json({"seconds": seconds, "rows": len(table), "table": str(out) if out else None})
        return
    for name, part in table.groupby("metric", sort=False):
        worst = part.sort_values("error", ascending=False).head(12)
        rows = [[r["component"], r["bits"], r["error"]] for _, r in worst.iterrows()]
        title = f"{name}: the 12 largest of {len(part)} errors, {seconds[str(name)]:.1f} s"
        print_table(title, ["component", "bits", "error at the output"], rows)
    if out is not None:
        say(f"table: {out}")
