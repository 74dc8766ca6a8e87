"""``pmq profile``: how long each layer takes at each choice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import print_json, print_table, say
from pmq.cli.source import NOTHING, Source, grouped


@grouped
def profile(
    model: o.Model = None,
    target: o.Target = "onnxruntime",
    source: Source = NOTHING,
    space: Annotated[str | None, typer.Option(help="whose choices; the target's own without")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="images at once", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="threads of the runtime", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="of each comparison; more are steadier", min=3)] = 15,
    out: Annotated[Path | None, typer.Option(help="file to write; by default below --results")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="time the widths as well that search --prune may choose")] = False,
    results: Annotated[Path, typer.Option(help="folder of latency tables")] = Path("results"),
    json: o.Json = False,
) -> None:
    """Time every layer at every choice in a runtime on this machine, and keep the table for searches."""
    from pmq.api.profile import latency_path
    from pmq.api.profile import profile as run_profile
    from pmq.cli.subject import open_model
    from pmq.core.files import check_target
    from pmq.core.run_files import check_output
    from pmq.models import model_label

    if out is not None:
        check_output(out, ".json", [model, source.checkpoint])  # before the model is loaded
    module = open_model(source.of(model))
    name = model_label(module)
    path = check_target(out or latency_path(results, name, target, threads, batch_size))
    table = run_profile(module, target, space=space, batch_size=batch_size, threads=threads, rounds=rounds, prune=prune, out=path)
    keys = list(dict.fromkeys(key for row in table.layers.values() for key in row))
    totals = {key: table.whole_ms(dict.fromkeys(table.layers, key)) for key in keys}
    if json:
        print_json({"table": str(path), "target": target, "rest_ms": table.rest_ms, "whole_ms": totals, "spread": table.spread})
        return
    own = source.of(model).line()
    rows = [[layer, *(row.get(key) for key in keys)] for layer, row in table.layers.items()]
    rows += [["all else", *(table.rest_ms for _ in keys)], ["sum", *totals.values()]]
    print_table(f"{name} on {target}, {threads} thread(s), batch of {batch_size}: milliseconds", ["layer", *keys], rows)
    budget = (1 + table.margin) * (min(totals.values()) + max(totals.values())) / 2  # what is spare within it counts as well
    then = f"pmq search{own} --target {target} --budget latency={budget:.3g}ms"
    say(f"latency table: {path}", f"next: {then}")
