"""Figures from a run directory alone."""

from __future__ import annotations

from pathlib import Path

from pmq.core.progress import track
from pmq.report.heatmap import plot_heatmap
from pmq.report.pareto import plot_pareto
from pmq.report.patches import plot_patches
from pmq.report.rounds import plot_rounds
from pmq.report.run_data import RunData
from pmq.report.sensitivity import plot_sensitivity

PANELS = (plot_pareto, plot_sensitivity, plot_heatmap, plot_rounds)


def plot_run(run: Path | str, folder: Path | str | None = None) -> list[Path]:
    """Draw every figure of a run into ``folder`` (its ``plots``).

    Raises:
        PmqError: ``run`` is no finished run directory, or ``folder`` cannot be written.

    Example:
        >>> import tempfile, torch, pmq
        >>> images, out = torch.randn(12, 1, 28, 28), tempfile.mkdtemp() + "/run"
        >>> run = pmq.search(None, images, "w4a8", space="w4a8", out=out).run
        >>> sorted({path.stem for path in pmq.plot(run)})
        ['bits', 'pareto', 'rounds', 'sensitivity']
    """
    data = RunData(Path(run))
    target = data.path / "plots" if folder is None else Path(folder)
    assert data.manifest
    return [path for panel in track(PANELS, "drawing") for path in panel(data, target)]


__all__ = ["PANELS", "RunData", "plot_patches", "plot_run"]
