"""``pmq report``: a page that shows a run, or several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import print_json, say


def report(
    runs: Annotated[list[Path] | None, typer.Argument(help="run directories; default: latest run")] = None,
    out: Annotated[
        Path | None, typer.Option(help="file to write; default: report.html in the run, compare.html in the first of several")
    ] = None,
    figures: Annotated[bool, typer.Option(help="draw figures as PNG, SVG and CSV beside the page too")] = True,
    results: Annotated[Path, typer.Option(help="folder of run directories")] = Path("results"),
    json: o.Json = False,
) -> None:
    """Write one HTML file that opens anywhere, without a network: the front, the bits, the patches, the proofs."""
    from pmq.core.rundir import latest_run
    from pmq.reporting import write_report

    found = runs or [latest_run(results)]
    page, paths = write_report(found, out, figures)
    if json:
        print_json({"report": str(page), "files": [str(p) for p in paths]})
        return
    if paths:
        say(f"figures: {', '.join(sorted({str(p.parent) for p in paths}))}")
    say(f"report: {page}")
