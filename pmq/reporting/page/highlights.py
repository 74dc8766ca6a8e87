"""Three points of a front that most readers ask for."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: points of agreement that the cheapest pick may lose
ONE_POINT = 1.0


def picks(points: pd.DataFrame, cost: str, error: str) -> dict[str, int]:
    """Name rows of simulated ``points`` by what they are good for; what no row is good for is left out. FP32 is none of them.

    Args:
        points: with ``cost``, ``error``, ``agreement`` (absent for features), ``within``, ``source``.
        cost: column to be small.
        error: column of simulated error.

    >>> points = pd.DataFrame({"size": [1.0, 2.0, 4.0, 8.0], "kl": [1.0, 0.1, 0.05, 0.04], "agreement": [60, 95, 99.2, 99.5]})
    >>> picks(points.assign(within=[True, True, True, False], source="nsga2"), "size", "kl")
    {'most accurate within the budget': 2, 'knee': 1, 'cheapest within 1 point of agreement': 2}
    """
    known = points[points[error].notna() & (points["source"] != "fp32")]
    found = {}
    inside = known[known["within"].astype(bool)]
    if len(inside):
        found["most accurate within the budget"] = inside[error].idxmin()
    front = known.sort_values([cost, error])
    front = front[front[error] < front[error].cummin().shift(fill_value=np.inf)]
    bend = _bend(front[cost].to_numpy(float), front[error].to_numpy(float)) if len(front) > 2 else None
    if bend is not None:
        found["knee"] = front.index[bend]
    near = known[known["agreement"] >= 100 - ONE_POINT] if "agreement" in known else known[:0]
    if len(near):
        found["cheapest within 1 point of agreement"] = near.sort_values([cost, error]).index[0]
    return {name: int(row) for name, row in found.items()}


def _bend(cost: NDArray[np.float64], error: NDArray[np.float64]) -> int | None:
    """Where the front, both axes as logarithms from 0 to 1, is farthest below the line between its ends; if anywhere."""
    x, y = (np.log(np.maximum(v, 1e-12)) for v in (cost, error))
    x, y = ((v - v.min()) / max(float(np.ptp(v)), 1e-12) for v in (x, y))
    at = int(np.argmin(x + y))
    return at if x[at] + y[at] < 1 - 1e-9 else None
