"""``pmq ls``: list runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import print_json, print_table


def ls(
    results: Annotated[Path, typer.Argument(help="Folder of run directories")] = Path("results"),
    json: o.Json = False,
) -> None:
    """List the runs below a folder with their model, budget, size, agreement and date, latest first."""
    from pmq.core.runs import list_runs

    runs = list_runs(results)
    if json:
        print_json({"runs": [run.facts() for run in runs]})
        return
    rows = [
        [
            str(run.path),
            run.model,
            run.budget or run.state,
            None if run.size_bytes is None else f"{run.size_bytes / 1e6:.3f}",
            run.agreement,
            run.error,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed)),
        ]
        for run in runs
    ]
    columns = ["run", "model", "budget", "MB", "agreement %", "KL or error", "date"]
    print_table(f"{len(runs)} runs below {results}", columns, rows)
