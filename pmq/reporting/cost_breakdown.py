"""Cost breakdown of the chosen allocation by block."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt

from pmq.reporting.axes import AXES
from pmq.reporting.run_data import RunData
from pmq.reporting.style import save


def plot_cost_breakdown(run: RunData, folder: Path) -> list[Path]:
    """Draw a stacked bar per block for each cost; return no files for runs without a cost breakdown."""
    table = run.cost_breakdown
    if table is None:
        return []
    drawn = [axis for axis in AXES if axis[0] in table]
    figure, axes = plt.subplots(1, len(drawn), figsize=(5.5 * len(drawn), 4), squeeze=False)
    for axis, (cost, unit, name) in zip(axes[0], drawn, strict=True):
        grid = table.pivot_table(index="block", columns="part", values=cost, aggfunc="sum", sort=False) / unit
        grid.plot.bar(stacked=True, ax=axis, legend=axis is axes[0][0], width=0.8, colormap="cividis")
        axis.set_ylabel(name)
        axis.set_xlabel("")
        axis.tick_params(axis="x", labelsize=7)
    axes[0][0].legend(fontsize=7)
    figure.suptitle(f"Cost breakdown: {run.title}")
    figure.tight_layout()
    return save(figure, table, folder, "spent")
