"""Figures and report pages, built only from run directories."""

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
    """Draw every figure of a run into ``folder`` (by default ``plots`` in the run) and return the files.

    Raises:
        PmqError: ``run`` is not the directory of a finished run, or ``folder`` cannot be written.

    Example:
        >>> import tempfile, torch, pmq
        >>> images, out = torch.randn(12, 1, 28, 28), tempfile.mkdtemp() + "/run"
        >>> quick = pmq.SearchOptions(recipe="fast", n_rounds=1)
        >>> run = pmq.search(None, images, "w4a8", space="w4a8", out=out, options=quick).run
        >>> sorted({path.stem for path in pmq.plot(run)})
        ['bits', 'pareto', 'rounds', 'sensitivity', 'spent']
    """
    from pmq.reporting.figures import PANELS, SEARCHED  # imports matplotlib only where figures are drawn

    data = RunData(Path(run))
    target = data.path / "plots" if folder is None else Path(folder)
    if is_file(target / MANIFEST):
        raise PmqError(
            f"cannot draw into {quoted(target)}: tables of figures would overwrite those of the run; choose another folder"
        )
    panels = (*SEARCHED, *PANELS) if data.searched else PANELS
    return [path for panel in track(panels, "drawing") for path in panel(data, target)]


def write_report(runs: Sequence[Path | str], out: Path | str | None = None, figures: bool = True) -> tuple[Path, list[Path]]:
    """Write the page of a run, or one that compares several, and each run's figures; return the page and the figures.

    Args:
        runs: run directories.
        out: file to write; by default ``report.html`` in the run, or ``compare.html`` in the first of several runs.
        figures: whether to draw each run's figures into its folder ``plots``.

    Raises:
        PmqError: one of the runs is not finished, or the file cannot be written.
    """
    page = write_page(runs, out)
    return page, [path for run in runs if figures for path in plot_run(run)]


__all__ = ["RunData", "plot_run", "write_page", "write_report"]
