"""Report page of a run or of several runs side by side: one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pmq.core.errors import PmqError
from pmq.core.files import write_text
from pmq.core.run_files import check_output
from pmq.reporting.page.payload import payload
from pmq.reporting.run_data import RunData

NAME, COMPARED = "report.html", "compare.html"
#: scripts in the order of their dependencies
SCRIPTS = ("format", "front", "allocation", "why", "merging", "patches", "trust", "deploy", "compare", "main")


def write_page(runs: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write ``report.html`` for a run, or a page that compares several runs, and return its path.

    Args:
        runs: run directories.
        out: file to write; by default ``report.html`` in the run, or ``compare.html`` in the first of several runs.

    Raises:
        PmqError: one of the runs is not finished, or the file cannot be written.
    """
    contents = [RunData(Path(run)) for run in runs]
    if not contents:
        raise PmqError("no run to report on; pass its directory")
    name = NAME if len(contents) == 1 else COMPARED
    target = check_output(Path(out) if out is not None else contents[0].path / name, ".html")
    return write_text(target, render([payload(run, alone=len(contents) == 1) for run in contents]))


def render(payloads: Sequence[dict[str, object]]) -> str:
    """Render the page from the payload of each run, see :func:`pmq.reporting.page.payload.payload`."""
    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    parts = files("pmq.reporting.page") / "parts"
    # Escaped, because "</script>" in the data would end its script element.
    data = json.dumps(list(payloads), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    template = Environment(autoescape=True, trim_blocks=True).from_string((parts / "page.html").read_text("utf-8"))
    return template.render(
        title=" against ".join(str(p["name"]) for p in payloads) if len(payloads) > 1 else payloads[0]["title"],
        style=(parts / "page.css").read_text("utf-8"),
        plotly=get_plotlyjs(),
        data=data,
        scripts="\n".join((parts / f"{name}.js").read_text("utf-8") for name in SCRIPTS),
    )


__all__ = ["NAME", "render", "write_page"]
