"""Share of channels that a pruning plan keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from pmq.reporting.run_data import RunData
from pmq.reporting.style import BLUE, GREEN, ORANGE, save

KINDS = {
    "hidden": ("hidden channels of MLPs", BLUE),
    "attention": ("channels of heads", ORANGE),
    "embedding": ("embedding", GREEN),
}


def plot_pruning(run: RunData, folder: Path) -> list[Path]:
    """Draw the share of channels kept in each unit; return no files for unpruned models."""
    plan = run.allocation.pruning
    if plan is None:
        return []
    rows = [
        {"unit": name, "kind": unit.kind, "kept": len(unit.indices), "of": unit.size, "heads": unit.kept_heads}
        for name, unit in plan.units.items()
    ]
    table = pd.DataFrame(rows)
    figure, axis = plt.subplots(figsize=(2 + 0.4 * len(table), 4))
    place = np.arange(len(table))
    for kind, (label, colour) in KINDS.items():
        rows_of_kind = (table["kind"] == kind).to_numpy()
        if rows_of_kind.any():
            axis.bar(
                place[rows_of_kind], 100 * table["kept"][rows_of_kind] / table["of"][rows_of_kind], color=colour, label=label
            )
    axis.set_xticks(place, table["unit"], rotation=90, fontsize=7)
    axis.set_ylabel("kept (% of channels)")
    axis.set_ylim(0, 102)
    axis.legend(fontsize=7, loc="lower right")
    axis.set_title(f"Pruning: {run.heading}")
    figure.tight_layout()
    return save(figure, table, folder, "pruning")
