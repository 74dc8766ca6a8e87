"""Common style of all figures, and saving as PNG, SVG and CSV."""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from pmq.core.files import write_bytes, write_csv

#: palette of Okabe and Ito, which colour-blind readers can distinguish
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "svg.hashsalt": "pmq", "figure.dpi": 120})
plt.rcParams["text.parse_math"] = False  # names of models, components and runs may contain "$"
#: bytes that are invalid in XML
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")


class _Plain(LogFormatter):
    """Formatter of logarithmic ticks that writes plain numbers instead of formulas."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def logarithmic(axes: Axes, x: bool = False, y: bool = False) -> None:
    """Make the x or y axis logarithmic, with plain numbers as tick labels."""
    if x:
        axes.set_xscale("log")
    if y:
        axes.set_yscale("log")
    for axis in (*([axes.xaxis] if x else []), *([axes.yaxis] if y else [])):
        axis.set_major_formatter(_Plain())
        axis.set_minor_formatter(_Plain())


def save(figure: Figure, data: pd.DataFrame, folder: Path, name: str, suffixes: tuple[str, ...] = ("png", "svg")) -> list[Path]:
    """Write a figure as ``name.png`` and ``name.svg`` (or ``suffixes``) and its data as ``name.csv``; return the files."""
    paths = []
    for suffix in suffixes:
        buffer = io.BytesIO()
        metadata = {"Date": None} if suffix == "svg" else {}
        figure.savefig(buffer, format=suffix, bbox_inches="tight", metadata=metadata)
        picture = _CONTROL.sub(b"", buffer.getvalue()) if suffix == "svg" else buffer.getvalue()
        paths.append(write_bytes(folder / f"{name}.{suffix}", picture))
    plt.close(figure)
    return [*paths, write_csv(folder / f"{name}.csv", data)]
