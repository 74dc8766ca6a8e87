"""Heat map of the chosen bit-widths: block x component."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.colors import BoundaryNorm, ListedColormap

from pmq.reporting.run_data import RunData, place
from pmq.reporting.style import save

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 32)


def plot_heatmap(run: RunData, folder: Path) -> list[Path]:
    """Draw a cell for each component, labelled with its bit-width."""
    table = bits_table(run)
    grid = table.pivot_table(index="block", columns="part", values="bits", aggfunc="first", sort=False)
    colours = ListedColormap(plt.get_cmap("viridis")(np.linspace(0, 1, len(WIDTHS))))
    norm = BoundaryNorm([-0.5, *(w - 0.5 for w in WIDTHS[1:]), WIDTHS[-1] + 0.5], colours.N)
    figure, axis = plt.subplots(figsize=(1.2 + 0.75 * grid.shape[1], 1.5 + 0.36 * grid.shape[0]))
    axis.imshow(np.ma.masked_invalid(grid.to_numpy(float)), cmap=colours, norm=norm, aspect="auto")
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            value = grid.iloc[row, column]
            if not np.isnan(value):
                text = "fp32" if value == 32 else f"{value:.1f}".removesuffix(".0")
                axis.text(column, row, text, ha="center", va="center", color="white" if value < 6 else "black")
    axis.set_xticks(range(grid.shape[1]), grid.columns, rotation=45, ha="right", fontsize=7)
    axis.set_yticks(range(grid.shape[0]), grid.index, fontsize=7)
    axis.grid(False)
    axis.set_title(f"Bit-widths: {run.title}")
    figure.tight_layout()
    return save(figure, table, folder, "bits")


def bits_table(run: RunData) -> pd.DataFrame:
    """Return block, part of the block, component and bit-width (mean over tokens for maps of patches) of each component."""
    rows: list[dict[str, Any]] = []
    means = {} if run.allocation.patches is None else run.allocation.patches.mean_bits
    for component in run.inventory:
        block, part = place(component.name)
        rows.append({"block": block, "part": part, "component": component.name})
        rows[-1]["bits"] = means.get(component.name, run.allocation.components[component.name].bits)
    return pd.DataFrame(rows)
