"""Rank correlation of a prediction: Kendall's tau with a bootstrap interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmq.optimize.tables import Floats

#: number of bootstrap resamples, and quantiles of the interval's two ends
RESAMPLES, ENDS = 1000, (0.025, 0.975)


@dataclass(frozen=True)
class Ranking:
    """Kendall's tau-b of ``n`` pairs, with the 95 % interval of resampled pairs."""

    tau: float
    low: float
    high: float
    n: int


def rank_correlation(predicted: Floats, true: Floats, seed: int = 0) -> Ranking | None:
    """Return the rank correlation of two scores of the same allocations, or None if there are fewer than five.

    >>> round(rank_correlation(np.arange(6.0), np.arange(6.0) ** 2).tau, 6)
    1.0
    """
    from scipy.stats import kendalltau  # importing it takes a third of a second, and few commands rank

    n = len(predicted)
    if n < 5:
        return None
    # All pairs at once: a resample contains the pairs of its members, each as often as both were drawn.
    agree = np.sign(predicted[:, None] - predicted) * np.sign(true[:, None] - true)
    apart = (np.sign(predicted[:, None] - predicted) != 0, np.sign(true[:, None] - true) != 0)
    rng = np.random.default_rng(seed)
    taus = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, n, n), minlength=n).astype(float)
        among = [float(times @ a @ times) for a in apart]
        taus.append(float(times @ agree @ times) / max(np.sqrt(among[0] * among[1]), 1e-30))
    low, high = np.quantile(taus, ENDS)
    return Ranking(float(kendalltau(predicted, true).statistic), float(low), float(high), n)
