"""Highlights of a Pareto front: three points that are of most interest."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: loss of agreement allowed for the cheapest highlight, in percentage points
ONE_POINT = 1.0


def find_highlights(points: pd.DataFrame, cost: str, error: str) -> dict[str, int]:
    """Return the rows of the highlights among simulated ``points`` by name; FP32 is excluded, as are highlights without a row.

    Args:
        points: table with the columns ``cost``, ``error``, ``agreement`` (absent for features), ``within`` and ``source``.
        cost: column of the cost.
        error: column of the simulated error.

    >>> points = pd.DataFrame({"size": [1.0, 2.0, 4.0, 8.0], "kl": [1.0, 0.1, 0.05, 0.04], "agreement": [60, 95, 99.2, 99.5]})
    >>> find_highlights(points.assign(within=[True, True, True, False], source="nsga2"), "size", "kl")
    {'most accurate within the budget': 2, 'knee': 1, 'cheapest within 1 point of agreement': 2}
    """
    known = points[points[error].notna() & (points["source"] != "fp32")]
    rows = {}
    inside = known[known["within"].astype(bool)]
    if len(inside):
        rows["most accurate within the budget"] = inside[error].idxmin()
    front = known.sort_values([cost, error])
    front = front[front[error] < front[error].cummin().shift(fill_value=np.inf)]
    knee = _knee(front[cost].to_numpy(float), front[error].to_numpy(float)) if len(front) > 2 else None
    if knee is not None:
        rows["knee"] = front.index[knee]
    near = known[known["agreement"] >= 100 - ONE_POINT] if "agreement" in known else known[:0]
    if len(near):
        rows["cheapest within 1 point of agreement"] = near.sort_values([cost, error]).index[0]
    return {name: int(row) for name, row in rows.items()}


def _knee(cost: NDArray[np.float64], error: NDArray[np.float64]) -> int | None:
    """Return the index of the knee: farthest below the line between the ends of the front, on logarithmic axes scaled to 0 to 1.

    Returns:
        None if no point lies below the line.
    """
    x, y = (np.log(np.maximum(v, 1e-12)) for v in (cost, error))
    x, y = ((v - v.min()) / max(float(np.ptp(v)), 1e-12) for v in (x, y))
    at = int(np.argmin(x + y))
    return at if x[at] + y[at] < 1 - 1e-9 else None
