"""Cost axes of figures and pages, and the sample of very many points that they show."""

from __future__ import annotations

import numpy as np
import pandas as pd

#: column of a cost, divisor to the unit that is shown, label
AXES = (
    ("size_bytes", 1e6, "size (MB, decimal)"),
    ("bit_ops", 1e9, "bit operations per image (G)"),
    ("latency_ms", 1.0, "predicted latency (ms)"),
)
#: maximum number of dominated points that are drawn and written to the CSV
CLOUD = 4000


def evenly(points: pd.DataFrame) -> pd.DataFrame:
    """Return at most ``CLOUD`` rows, evenly spaced."""
    return points.iloc[np.linspace(0, len(points) - 1, min(CLOUD, len(points))).astype(int)]
