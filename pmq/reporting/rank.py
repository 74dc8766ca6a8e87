"""Figures of the metric benchmark: predicted against simulated errors, and the optima by each metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from pmq.reporting.style import BLUE, GREY, ORANGE, RED, logarithmic, save


def plot_rank(summary: pd.DataFrame, allocations: pd.DataFrame, error: str, one_budget: str, folder: Path) -> list[Path]:
    """Draw predicted against simulated error for each metric, and the optima by all metrics; return the files."""
    metrics = [name for name in summary.index if name in allocations]
    columns = 4
    figure, axes = plt.subplots(
        -(-len(metrics) // columns), columns, figsize=(13, 3 * -(-len(metrics) // columns)), squeeze=False
    )
    for axis in axes.ravel()[len(metrics) :]:
        axis.axis("off")
    for axis, name in zip(axes.ravel(), metrics, strict=False):
        for label, colour in (("all budgets", GREY), (one_budget, BLUE)):
            part = allocations[allocations["set"] == label]
            axis.scatter(part[name], part[error], s=6, color=colour, label=label)
        row = summary.loc[name]
        axis.set_title(f"{name}: tau {row['tau']:.2f}, at {one_budget} {row['tau_one_budget']:.2f}", fontsize=8)
        logarithmic(axis, x=bool((allocations[name] > 0).all()), y=True)
        axis.set_xlabel("predicted", fontsize=7)
        axis.set_ylabel(f"simulated {'KL (nats)' if error == 'kl' else 'relative error'}", fontsize=7)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    return [*save(figure, allocations, folder, "predictions"), *_plot_optima(summary, error, folder)]


def _plot_optima(summary: pd.DataFrame, error: str, folder: Path) -> list[Path]:
    """Draw the error of the optimum by each metric, a panel per budget."""
    budgets = [c.removeprefix(f"{error} ") for c in summary.columns if c.startswith(f"{error} ")]
    figure, axes = plt.subplots(
        1, len(budgets), figsize=(4.4 * len(budgets), 0.28 * len(summary) + 1.2), squeeze=False, sharey=True
    )
    place = np.arange(len(summary))[::-1]
    for axis, budget in zip(axes[0], budgets, strict=True):
        values = summary[f"{error} {budget}"]
        colours = [
            RED if n.endswith("+rounds") else ORANGE if np.isnan(summary.loc[n, "seconds"]) else BLUE for n in summary.index
        ]
        right = min(values.max(), 2.5 * values.min())
        axis.barh(place, values.clip(upper=right), color=colours)
        for y, value, agreement in zip(place, values, summary[f"agreement {budget}"], strict=True):
            text = f"{value:.3g}" + (f" / {agreement:.1f} %" if agreement == agreement else "")
            axis.text(min(value, right), y, f" {text}", va="center", fontsize=7)
        axis.set_xlim(0, right * 1.4)  # bars far above the best are cut off, but their values are shown
        axis.set_yticks(place, summary.index)
        axis.set_title(f"optimum at {budget}: {'KL (nats) / agreement' if error == 'kl' else 'relative error'}", fontsize=8)
    figure.tight_layout()
    return save(figure, summary.reset_index(), folder, "optima")
