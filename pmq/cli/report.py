"""``pmq report``: write an HTML page of a run, or of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import print_json, say
from pmq.cli.recorded import LATEST, latest_or


def report(
    runs: Annotated[list[str] | None, typer.Argument(help="Run directories, or latest (default)")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write (default: report.html in the run, or compare.html in the first of several)"),
    ] = None,
    figures: Annotated[bool, typer.Option(help="Also draw the figures as PNG, SVG and CSV next to the page")] = True,
    results: Annotated[Path, typer.Option(help="Folder of run directories")] = Path("results"),
    json: o.Json = False,
) -> None:
    """Write one self-contained HTML file with the front, the bits, the patches and the proofs."""
    from pmq.reporting import write_report

    page, paths = write_report([Path(latest_or(run, results)) for run in runs or [LATEST]], out, figures)
    if json:
        print_json({"report": str(page), "files": [str(p) for p in paths]})
        return
    if paths:
        say(f"figures: {', '.join(sorted({str(p.parent) for p in paths}))}")
    say(f"report: {page}")
