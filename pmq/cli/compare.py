"""``pmq compare``: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import costs, print_json, print_table, say


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="run directories")],
    out: Annotated[Path | None, typer.Option(help="page to write; default: compare.html in the first run")] = None,
    json: o.Json = False,
) -> None:
    """Show what several runs chose beside each other, and which components have other bits; write a page of it."""
    from pmq.core import PmqError
    from pmq.core.runs import differences, listed
    from pmq.reporting import write_report

    if len(runs) < 2:
        raise PmqError("one run alone cannot be compared; give two or more, or see pmq report")
    found = [listed(run) for run in runs]
    others = differences(runs)
    page, _ = write_report(runs, out, figures=False)
    if json:
        print_json({"runs": [run.facts() for run in found], "differences": others, "report": str(page)})
        return
    rows = [
        [str(run.path), run.model, run.budget, *costs(run.size_bytes or 0, run.bit_ops or 0), run.agreement, run.error]
        for run in found
    ]
    print_table("what was chosen", ["run", "model", "budget", "MB", "bit ops (G)", "agreement %", "KL or error"], rows)
    if others:
        columns = ["component", *(str(run) for run in runs)]
        cells = [[name, *labels] for name, labels in list(others.items())[:MOST]]
        print_table(f"{len(others)} components have other bits; the first {len(cells)}", columns, cells)
    say(f"report: {page}")


#: components that are named in the terminal
MOST = 20
