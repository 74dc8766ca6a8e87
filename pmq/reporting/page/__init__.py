"""The page of a run, or of several side by side: one file that needs no network."""

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
#: scripts in the order in which they need one another
SCRIPTS = ("format", "front", "allocation", "why", "patches", "trust", "deploy", "compare", "main")


def write_page(runs: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write ``report.html``; of several runs one that compares them.

    Args:
        runs: run directories.
        out: file to write; by default ``report.html`` in the run, or ``compare.html`` in the first of several.

    Raises:
        PmqError: one of them is no finished run, or the file cannot be written.
    """
    found = [RunData(Path(run)) for run in runs]
    if not found:
        raise PmqError("no run to report on; name its directory")
    name = NAME if len(found) == 1 else COMPARED
    target = check_output(Path(out) if out is not None else found[0].path / name, ".html")
    return write_text(target, render([payload(run, alone=len(found) == 1) for run in found]))


def render(payloads: Sequence[dict[str, object]]) -> str:
    """Fill the page with what :func:`pmq.reporting.page.payload.payload` gives of each run."""
    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    parts = files("pmq.reporting.page") / "parts"
    # A text such as "</script>" in the data would end the element that holds it.
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
