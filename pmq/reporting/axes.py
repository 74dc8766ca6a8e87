"""What figures and the page both go by: the costs of a run's points, and which of very many points are shown."""

from __future__ import annotations

import numpy as np
import pandas as pd

AXES = (
    ("size_bytes", 1e6, "size (MB, decimal)"),
    ("bit_ops", 1e9, "bit operations an image (G)"),
    ("latency_ms", 1.0, "predicted latency (ms)"),
)
#: points drawn of the dominated cloud; the CSV keeps the same
CLOUD = 4000


def evenly(points: pd.DataFrame) -> pd.DataFrame:
    """Take ``CLOUD`` rows of many, evenly."""
    return points.iloc[np.linspace(0, len(points) - 1, min(CLOUD, len(points))).astype(int)]
