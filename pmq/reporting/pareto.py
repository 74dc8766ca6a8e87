"""Pareto front: predicted error of all points, and simulated error of the evaluated ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pmq.reporting.axes import AXES, evenly
from pmq.reporting.run_data import RunData
from pmq.reporting.style import BLUE, GREEN, GREY, ORANGE, RED, logarithmic, save


def plot_pareto(run: RunData, folder: Path) -> list[Path]:
    """Draw error against each cost, the predicted error above and the simulated error below, on separate axes."""
    points = run.points
    classifier = points["kl"].notna().any()
    simulated = "kl" if classifier else "feature_error"
    label = "KL to FP32, held-out images (nats)" if classifier else "relative feature error, held-out images"
    drawn = [axis for axis in AXES if axis[0] in points]
    figure, axes = plt.subplots(2, len(drawn), figsize=(5.5 * len(drawn), 8), sharex="col")
    dominated = points[~points["front"] & points["predicted_error"].notna()]
    cloud = evenly(dominated)
    front = points[points["front"]]
    known = points[points[simulated].notna()]
    for column, (cost, unit, name) in enumerate(drawn):
        top, bottom = axes[0, column], axes[1, column]
        top.scatter(cloud[cost] / unit, cloud["predicted_error"], s=3, color=GREY, alpha=0.4, label="dominated")
        top.scatter(front[cost] / unit, front["predicted_error"], s=5, color=BLUE, label="Pareto front (error and all costs)")
        _staircase(top, front, cost, unit, "predicted_error")
        uniform = known["source"].str.startswith(("uniform", "fp32"))
        searched = known[~uniform]
        inside = searched["within"].astype(bool)
        bottom.scatter(searched[~inside][cost] / unit, searched[~inside][simulated], s=14, color=GREY, label="simulated")
        bottom.scatter(
            searched[inside][cost] / unit, searched[inside][simulated], s=14, color=BLUE, label="simulated, within the budget"
        )
        _staircase(bottom, known[known["source"] != "fp32"], cost, unit, simulated)
        _mark_uniform(bottom, known[uniform], cost, unit, simulated)
        chosen = points[points["chosen"]]
        for axis, y in ((top, "predicted_error"), (bottom, simulated)):
            axis.scatter(chosen[cost] / unit, chosen[y], s=130, marker="*", color=RED, zorder=5, label="chosen")
            limit = run.manifest.limits.get(cost)
            if limit is not None:
                axis.axvline(limit / unit, color=GREEN, linestyle="--", label="budget")
            logarithmic(axis, y=True)
            axis.legend(fontsize=7)
        bottom.set_xscale("log")
        bottom.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        bottom.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        bottom.xaxis.set_minor_formatter(NullFormatter())
        bottom.set_xlabel(name)
    axes[0, 0].set_ylabel("predicted error (sum of sensitivities)")
    axes[1, 0].set_ylabel(label)
    figure.suptitle(f"Pareto front: {run.title}")
    figure.tight_layout()
    return save(figure, pd.concat([front, known, cloud]).drop_duplicates(), folder, "pareto")


def _staircase(axis: Any, points: pd.DataFrame, cost: str, unit: float, error: str) -> None:
    """Draw the staircase of the points that are not dominated in error and this cost."""
    ordered = points[points[error].notna()].sort_values([cost, error])
    best = ordered[ordered[error] < ordered[error].cummin().shift(fill_value=np.inf)]
    axis.step(best[cost] / unit, best[error], where="post", color=BLUE, linewidth=1)


def _mark_uniform(axis: Any, points: pd.DataFrame, cost: str, unit: float, error: str) -> None:
    quantized = points[points["source"] != "fp32"]
    axis.scatter(quantized[cost] / unit, quantized[error], s=40, marker="s", color=ORANGE, label="uniform", zorder=4)
    for _, row in quantized.iterrows():
        axis.annotate(row["source"].removeprefix("uniform ").upper(), (row[cost] / unit, row[error]), fontsize=7)
    for _, row in points[points["source"] == "fp32"].iterrows():
        axis.axvline(row[cost] / unit, color=ORANGE, linestyle=":", label="FP32 (no error)")
