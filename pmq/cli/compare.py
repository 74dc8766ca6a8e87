"""``pmq compare``: compare several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import costs, print_json, print_table, say


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run directories, two or more")],
    out: Annotated[Path | None, typer.Option(help="HTML page to write (default: compare.html in the first run)")] = None,
    json: o.Json = False,
) -> None:
    """Compare the chosen allocations of several runs, list the components whose bits differ, and write an HTML page."""
    from pmq.core import PmqError
    from pmq.core.runs import differences, listed
    from pmq.reporting import write_report

    if len(runs) < 2:
        raise PmqError("a comparison needs two or more runs; name another one, or use pmq report for a single run")
    summaries = [listed(run) for run in runs]
    differing = differences(runs)
    page, _ = write_report(runs, out, figures=False)
    if json:
        print_json({"runs": [run.facts() for run in summaries], "differences": differing, "report": str(page)})
        return
    rows = [
        [str(run.path), run.model, run.budget, *costs(run.size_bytes or 0, run.bit_ops or 0), run.agreement, run.error]
        for run in summaries
    ]
    print_table("Chosen allocations", ["run", "model", "budget", "MB", "bit ops (G)", "agreement %", "KL or error"], rows)
    if differing:
        columns = ["component", *(str(run) for run in runs)]
        cells = [[name, *labels] for name, labels in list(differing.items())[:MAX_LISTED]]
        print_table(f"{len(differing)} components differ in bits; the first {len(cells)}", columns, cells)
    say(f"report: {page}")


#: components listed in the terminal
MAX_LISTED = 20
