"""Pareto fronts: the points that no other point dominates."""

from __future__ import annotations

import numpy as np
from moocore import is_nondominated
from numpy.typing import NDArray

from pmq.optimize.tables import Floats


def non_dominated(costs: Floats) -> NDArray[np.bool_]:
    """Mark the rows of ``(B, M)`` (all minimised) that no other row dominates; of equal rows, mark one.

    >>> non_dominated(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 3.0], [2.0, 2.0]]))
    array([ True,  True, False, False])
    """
    if not len(costs):
        return np.zeros(0, bool)
    return np.asarray(is_nondominated(costs, keep_weakly=False), dtype=bool)
