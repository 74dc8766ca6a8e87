"""``pmq export``: write an allocation file and its schema, or an allocation in the format of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.grouped import grouped
from pmq.cli.output import print_json, say
from pmq.cli.recorded import LATEST, fill_from_runs, latest_or
from pmq.cli.source import NO_FLAGS, Source


@grouped
def export(
    run: Annotated[str, typer.Argument(help="Run directory, allocation file, or latest")] = LATEST,
    model: o.Model = None,
    format: Annotated[
        str,
        typer.Option(help="Format: json (the allocation itself), aimet, coreml, modelopt, nncf, qnn, torchao"),
    ] = "json",
    unsupported: Annotated[
        str, typer.Option(help="Components that the format cannot express: refuse, skip (leave in FP32), widen (use more bits)")
    ] = "refuse",
    out: Annotated[
        Path | None, typer.Option(help="File to write; others are written next to it (default: allocation.json, MODEL-FORMAT)")
    ] = None,
    source: Source = NO_FLAGS,
    results: Annotated[Path, typer.Option(help="Folder of run directories")] = Path("results"),
    json: o.Json = False,
) -> None:
    """Validate an allocation and write it with its JSON Schema, or in the format of another tool."""
    from pmq.api import export as run_export

    name = latest_or(run, results)
    if format == "json":
        allocation, schema = run_export(name, out or Path("allocation.json"))
        if json:
            print_json({"allocation": str(allocation), "schema": str(schema)})
        else:
            say(f"allocation: {allocation}", f"schema: {schema}")
        return
    from pmq.cli.subject import open_model
    from pmq.core.paths import architecture
    from pmq.pipeline.export import check_file, check_unsupported, format_of, read_allocation

    form = format_of(format)
    assert form is not None
    check_unsupported(unsupported)
    item = read_allocation(name)
    path = out or Path(f"{architecture(item.model.name)}-{format}{form.suffix}")
    check_file(form, path, name)
    form.require()
    module = open_model(fill_from_runs([name], [item], source.with_model(model)))
    files = run_export(name, path, format, module, unsupported)
    if json:
        print_json({"format": format, "files": [str(file) for file in files]})
    else:
        say(f"format: {form.tool}", *(f"file: {file}" for file in files))
