"""One look for all figures, and one way to save them: PNG, SVG and the data as CSV."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from pmq.core.files import write_bytes, write_csv

#: Okabe and Ito's palette, told apart by colour-blind readers
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "svg.hashsalt": "pmq", "figure.dpi": 120})


def save(figure: Figure, data: pd.DataFrame, folder: Path, name: str, suffixes: tuple[str, ...] = ("png", "svg")) -> list[Path]:
    """Write ``name.png``, ``name.svg`` (where pictures are not what it shows) and ``name.csv`` into ``folder``."""
    paths = []
    for suffix in suffixes:
        buffer = io.BytesIO()
        metadata = {"Date": None} if suffix == "svg" else {}
        figure.savefig(buffer, format=suffix, bbox_inches="tight", metadata=metadata)
        paths.append(write_bytes(folder / f"{name}.{suffix}", buffer.getvalue()))
    plt.close(figure)
    return [*paths, write_csv(folder / f"{name}.csv", data)]
