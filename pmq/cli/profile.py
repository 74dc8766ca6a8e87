"""``pmq profile``: measure the latency of each layer at each choice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.grouped import grouped
from pmq.cli.output import print_json, print_table, say
from pmq.cli.source import NO_FLAGS, Source


@grouped
def profile(
    model: o.Model = None,
    target: o.Target = "onnxruntime",
    source: Source = NO_FLAGS,
    space: Annotated[str | None, typer.Option(help="Search space whose choices are timed (default: the target's)")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Number of images per batch", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Number of threads of the runtime", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="Number of rounds of each comparison; more rounds reduce noise", min=3)] = 15,
    out: Annotated[Path | None, typer.Option(help="File to write (default: named after the model below --results)")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Also time the widths that pmq search --prune may choose")] = False,
    results: Annotated[Path, typer.Option(help="Folder of latency tables")] = Path("results"),
    json: o.Json = False,
) -> None:
    """Time every layer at every choice in a runtime on this machine, and save the latency table for searches."""
    from pmq.api import profile as run_profile
    from pmq.cli.subject import open_model
    from pmq.core.files import check_target
    from pmq.core.run_files import check_output
    from pmq.models import model_label
    from pmq.pipeline.latency_tables import latency_path

    if out is not None:
        check_output(out, ".json", [model, source.checkpoint])  # fail before the model is loaded
    module = open_model(source.with_model(model))
    name = model_label(module)
    path = check_target(out or latency_path(results, name, target, threads, batch_size))
    table = run_profile(
        module, target, space=space, batch_size=batch_size, threads=threads, n_passes=rounds, prune=prune, file=path
    )
    keys = list(dict.fromkeys(key for row in table.layers.values() for key in row))
    totals = {key: table.whole_ms(dict.fromkeys(table.layers, key)) for key in keys}
    if json:
        print_json({"table": str(path), "target": target, "rest_ms": table.rest_ms, "whole_ms": totals, "spread": table.spread})
        return
    rows = [[layer, *(row.get(key) for key in keys)] for layer, row in table.layers.items()]
    rows += [["remainder", *(table.rest_ms for _ in keys)], ["sum", *totals.values()]]
    print_table(
        f"{name} on {target}, {threads} thread(s), batch of {batch_size}: latency in milliseconds", ["layer", *keys], rows
    )
    budget = (
        (1 + table.margin) * (min(totals.values()) + max(totals.values())) / 2
    )  # a search keeps the margin free within the budget
    command = f"pmq search{source.with_model(model).line()} --target {target} --budget latency={budget:.3g}ms"
    say(f"latency table: {path}", f"next: {command}")
