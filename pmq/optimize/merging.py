"""Proposals of how many tokens to merge behind each block, from the errors of single mergings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: number of prices of a token in a block, from which proposals result
PRICES = 40
#: time of one merging as a share of a block's, for all its tokens: few large mergings are faster than many small ones
OVERHEAD = 0.2
#: least tokens of all blocks that a proposal keeps, as a share of those without merging
LEAST = 0.5


def propose_mergings(
    errors: Mapping[str, Mapping[int, float]], n_tokens: int, prefix: int, n_proposals: int
) -> list[dict[str, int]]:
    """Return numbers of tokens to merge behind each block, without any first, then from few to many.

    For each price of a token in a block, dynamic programming over blocks finds the mergings with the least sum of errors and
    prices; a merging itself costs as much as :data:`OVERHEAD` of all tokens. Of all that result, those with about evenly spaced
    numbers of tokens are returned, of at least half of all tokens.

    Args:
        errors: block -> number of tokens -> error of the output if they are merged there and none elsewhere.
        n_tokens: number of tokens of an image.
        prefix: number of tokens at the front that are not merged.
        n_proposals: most proposals.

    >>> propose_mergings({"a": {4: 0.5}, "b": {4: 0.1}}, 9, 1, 3)
    [{}, {'b': 4}, {'a': 4}]
    """
    positive = [error for row in errors.values() for error in row.values() if error > 0]
    if not positive:
        return [{}]
    by_work: dict[float, dict[str, int]] = {}
    for price in np.geomspace(min(positive) / (n_tokens * len(errors)), 10 * max(positive), PRICES):
        merged = _least_total(errors, n_tokens, prefix, float(price))
        by_work.setdefault(_work(errors, merged, n_tokens), merged)
    works = sorted((work for work in by_work if work >= LEAST * n_tokens * len(errors)), reverse=True)
    if not works:
        return [{}]
    targets = np.linspace(works[0], works[-1], n_proposals)
    nearest = dict.fromkeys(min(works, key=lambda work: abs(work - target)) for target in targets)
    return [{}, *(by_work[work] for work in nearest if by_work[work])][:n_proposals]


def _least_total(errors: Mapping[str, Mapping[int, float]], n_tokens: int, prefix: int, price: float) -> dict[str, int]:
    """Return the mergings with the least sum of their errors and of the price of each token of each block behind them."""
    best: dict[int, tuple[float, dict[str, int]]] = {n_tokens: (0.0, {})}
    for block, row in errors.items():
        following: dict[int, tuple[float, dict[str, int]]] = {}
        for left, (total, merged) in best.items():
            for count, error in ((0, 0.0), *row.items()):
                if count <= (left - prefix) // 2:
                    remaining = left - count
                    value = total + error + price * (remaining + (OVERHEAD * n_tokens if count else 0.0))
                    if remaining not in following or value < following[remaining][0]:
                        following[remaining] = value, merged | ({block: count} if count else {})
        best = following
    return min(best.values(), key=lambda each: each[0])[1]


def _work(errors: Mapping[str, Mapping[int, float]], merged: Mapping[str, int], n_tokens: int) -> float:
    """Return the number of tokens of all blocks behind a merging, with those that merging costs."""
    left, total = n_tokens, OVERHEAD * n_tokens * len(merged)
    for block in errors:
        left -= merged.get(block, 0)
        total += left
    return total
