"""Figures and pages from run directories alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pmq.core.errors import PmqError
from pmq.core.files import is_file, quoted
from pmq.core.progress import track
from pmq.core.run_files import MANIFEST
from pmq.reporting.page import write_page
from pmq.reporting.run_data import RunData


def plot_run(run: Path | str, folder: Path | str | None = None) -> list[Path]:
    """Draw every figure of a run into ``folder`` (its ``plots``).

    Raises:
        PmqError: ``run`` is no finished run directory, or ``folder`` cannot be written.

    Example:
        >>> import tempfile, torch, pmq
        >>> images, out = torch.randn(12, 1, 28, 28), tempfile.mkdtemp() + "/run"
        >>> quick = pmq.SearchOptions(recipe="fast", n_rounds=1)
        >>> run = pmq.search(None, images, "w4a8", space="w4a8", out=out, options=quick).run
        >>> sorted({path.stem for path in pmq.plot(run)})
        ['bits', 'pareto', 'rounds', 'sensitivity', 'spent']
    """
    from pmq.reporting.figures import PANELS, SEARCHED  # matplotlib is imported where something is drawn

    data = RunData(Path(run))
    target = data.path / "plots" if folder is None else Path(folder)
    if is_file(target / MANIFEST):
        raise PmqError(
            f"cannot draw into {quoted(target)}: figures come with tables, which would be written over those of the run"
        )
    panels = PANELS if data.pruned else (*SEARCHED, *PANELS)
    return [path for panel in track(panels, "drawing") for path in panel(data, target)]


def write_report(runs: Sequence[Path | str], out: Path | str | None = None, figures: bool = True) -> tuple[Path, list[Path]]:
    """Write the page of a run, or one that compares several; and each run's figures. Give the page and the figures.

    Args:
        runs: run directories.
        out: file to write; by default ``report.html`` in the run, or ``compare.html`` in the first of several.
        figures: whether to draw each run's figures into its ``plots`` as well.

    Raises:
        PmqError: one of them is no finished run, or the file cannot be written.
    """
    page = write_page(runs, out)
    return page, [path for run in runs if figures for path in plot_run(run)]


__all__ = ["RunData", "plot_run", "write_page", "write_report"]
