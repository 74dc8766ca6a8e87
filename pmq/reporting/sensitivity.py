"""Figure of the sensitivity of every component at every bit-width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from pmq.reporting.run_data import RunData
from pmq.reporting.style import logarithmic, save


def plot_sensitivity(run: RunData, folder: Path) -> list[Path]:
    """Draw a dot for each component and bit-width, with weights above and activations below."""
    table = run.sensitivity
    figure, axes = plt.subplots(2, 1, figsize=(13, 8))
    bits = sorted(table["bits"].unique())
    colours = dict(zip(bits, plt.get_cmap("viridis")(np.linspace(0, 0.95, len(bits))), strict=True))
    for axis, role in zip(axes, ("weight", "activation"), strict=True):
        part = table[table["role"] == role]
        order = list(dict.fromkeys(n for n in run.inventory.names if n in set(part["component"])))
        place = {name: i for i, name in enumerate(order)}
        for width in bits:
            rows = part[part["bits"] == width]
            x = rows["component"].map(place)
            axis.scatter(x, rows["error"].clip(lower=1e-9), s=14, color=colours[width], label=f"{width} bit")
        logarithmic(axis, y=True)
        axis.set_xticks(range(len(order)), [_short(n) for n in order], rotation=90, fontsize=5)
        axis.set_ylabel(f"error from one {role} (nats)")
        axis.set_xlim(-1, len(order))
    axes[0].legend(ncols=len(bits), fontsize=7)
    axes[0].set_title(f"Sensitivity ({table['metric'].iloc[0]}): {run.title}")
    figure.tight_layout()
    return save(figure, table, folder, "sensitivity")


def _short(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".input").replace("blocks.", "").replace("layers.", "")
