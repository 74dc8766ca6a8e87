"""``pmq export``: write an allocation file and its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import print_json, say
from pmq.cli.recorded import latest_or


def export(
    run: Annotated[str | None, typer.Argument(help="Run directory or allocation file (default: the latest run)")] = None,
    out: Annotated[Path, typer.Option(help="File to write; its schema is written next to it")] = Path("allocation.json"),
    results: Annotated[Path, typer.Option(help="Folder of run directories")] = Path("results"),
    json: o.Json = False,
) -> None:
    """Validate an allocation and write it with its JSON Schema."""
    from pmq.api import export as run_export

    allocation, schema = run_export(run or str(latest_or(None, results)), out)
    if json:
        print_json({"allocation": str(allocation), "schema": str(schema)})
    else:
        say(f"allocation: {allocation}", f"schema: {schema}")
