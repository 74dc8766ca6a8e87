"""``pmq plot``: draw the figures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import print_json, say
from pmq.cli.recorded import LATEST, latest_or


def plot(
    run: Annotated[str, typer.Argument(help="Run directory, or latest")] = LATEST,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures (default: plots in the run)")] = None,
    results: Annotated[Path, typer.Option(help="Folder of run directories")] = Path("results"),
    json: o.Json = False,
) -> None:
    """Draw the Pareto front, sensitivities and the heat map of bits as PNG and SVG, with their data as CSV."""
    from pmq.reporting import plot_run

    paths = plot_run(Path(latest_or(run, results)), out)
    if json:
        print_json({"files": [str(p) for p in paths]})
    else:
        say(*map(str, paths))
