"""Progress of a search by rounds, and predicted against simulated errors of its candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from pmq.reporting.run_data import RunData
from pmq.reporting.style import BLUE, GREEN, GREY, ORANGE, logarithmic, save


def plot_rounds(run: RunData, folder: Path) -> list[Path]:
    """Draw the lowest error and the hypervolume after each round, and predicted against simulated error."""
    rounds, points = run.rounds, run.points
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    place = np.arange(1, len(rounds) + 1)
    left.plot(place, rounds["error"], marker="o", color=BLUE)
    left.set_xticks(place, [f"{p}\n{n} simulated" for p, n in zip(place, rounds["simulated"], strict=True)])
    left.set_xlabel("round")
    left.set_ylabel("lowest simulated error within the budget (nats)", color=BLUE)
    left.set_ylim(0, 1.2 * rounds["error"].max() + 1e-12)
    volume = left.twinx()
    volume.plot(place, rounds["hypervolume"], marker="s", color=ORANGE)
    volume.set_ylabel("hypervolume (decades of error x share of the budget)", color=ORANGE)
    volume.set_ylim(0, 1.1 * rounds["hypervolume"].max() + 1e-12)
    volume.grid(visible=False)
    error = "kl" if points["kl"].notna().any() else "feature_error"
    known = points[points[error].notna() & points["predicted_error"].notna()]
    inside = known["within"].astype(bool)
    for part, colour, label in ((known[~inside], GREY, "over the budget"), (known[inside], GREEN, "within the budget")):
        right.scatter(part["predicted_error"], part[error], s=14, color=colour, label=label)
    ends = [known[["predicted_error", error]].min().min(), known[["predicted_error", error]].max().max()]
    right.plot(ends, ends, color=GREY, linestyle=":", label="as predicted")
    logarithmic(right, x=True, y=True)
    right.set_xlabel("predicted error (nats)")
    right.set_ylabel("simulated error, held-out images (nats)")
    taus = {name: r for name, r in run.manifest.ranking.items() if None not in (r.tau, r.low, r.high)}
    correlations = ", ".join(f"{name.replace('_', ' ')} {r.tau:.2f} ({r.low:.2f} to {r.high:.2f})" for name, r in taus.items())
    right.set_title(f"Kendall's tau: {correlations}" if correlations else "", fontsize=8)
    right.legend(fontsize=7)
    figure.suptitle(f"Rounds: {run.title}")
    figure.tight_layout()
    return save(figure, rounds, folder, "rounds")
