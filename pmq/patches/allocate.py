"""Allocation of bits to tokens: the least error within a budget of bit operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pmq.core.errors import PmqError
from pmq.patches.sensitivity import Floats, TokenErrors
from pmq.patches.tokens import Patchable

#: number of bisection steps for the price of a bit operation
HALVINGS = 100
#: number of passes that update the prices, and number of all passes; the last ones only approach the limit
PRICE_UPDATES, PASSES = 8, 16
#: minimum weight of a position's own estimate, so that the tokens of a layer do not all change their bits at one price
MIN_WEIGHT = 1e-6


def shrunk(errors: TokenErrors, prefix: int) -> Floats:
    """Shrink the estimates of single positions towards the mean of all patches, according to their noise (empirical Bayes).

    The variance of the estimates over positions is the variance of the true errors plus the noise; the share of the former is
    the weight of a position's own estimate.
    """
    error = errors.error.copy()
    patches, noise = error[:, prefix:], errors.noise[:, prefix:].mean(1, keepdims=True)
    mean, variance = patches.mean(1, keepdims=True), patches.var(1, keepdims=True)
    share = np.clip(variance - noise, 0, None) / np.maximum(variance, 1e-300)
    share = np.maximum(share, MIN_WEIGHT)
    error[:, prefix:] = mean + share * (patches - mean)
    return error


def pooled(errors: TokenErrors, prefix: int, groups: int = 14) -> Floats:
    """Replace the errors of neighbouring ranks by their mean, in ``groups`` groups.

    The bits of a group then apply to a share of the tokens.
    """
    error = errors.error.copy()
    for part in np.array_split(np.arange(prefix, error.shape[1]), groups):
        if len(part):
            error[:, part] = error[:, part].mean(1, keepdims=True)
    return error


@dataclass(frozen=True)
class Reallocation:
    """Bits of tokens ``(T,)`` per activation, their predicted error, and the largest possible gap to the optimum."""

    bits: dict[str, NDArray[np.int64]]
    error: float
    gap: float
    bit_ops: float

    @property
    def means(self) -> dict[str, float]:
        """Activation -> mean bits of its tokens."""
        return {name: float(bits.mean()) for name, bits in self.bits.items()}


def solve(
    errors: Mapping[str, Floats], bits: Mapping[str, tuple[int, ...]], prices: Mapping[str, float], bit_ops: float
) -> Reallocation:
    """Give each token the bits that are optimal at one price per bit operation, the lowest price that keeps within ``bit_ops``.

    Tokens are many and each is small compared to the budget, so this optimum of the Lagrangian equals that of the integer
    program except for about one token; duality bounds the gap to the true optimum.

    Args:
        errors: activation -> ``(K, T)``.
        bits: activation -> ``(K,)``.
        prices: activation -> bit operations that one bit of one token costs.
        bit_ops: the budget.

    Raises:
        PmqError: even the cheapest bits exceed the budget.
    """
    names = list(errors)
    costs = {name: prices[name] * np.array(bits[name], float)[:, None] for name in names}

    def minimize_at(price: float) -> tuple[dict[str, NDArray[np.int64]], float, float]:
        chosen = {name: (errors[name] + price * costs[name]).argmin(0) for name in names}
        used_ops = sum(float(costs[name][chosen[name], 0].sum()) for name in names)
        error = sum(float(np.take_along_axis(errors[name], chosen[name][None], 0).sum()) for name in names)
        return chosen, used_ops, error

    lowest_ops = sum(float(costs[name].min() * errors[name].shape[1]) for name in names)
    if lowest_ops > bit_ops:
        raise PmqError(
            f"the cheapest bits of all tokens take {lowest_ops / 1e9:.4g}G bit operations, but {bit_ops / 1e9:.4g}G are left"
        )
    low, high = 0.0, 1.0
    while minimize_at(high)[1] > bit_ops:
        high *= 16
    if minimize_at(0.0)[1] <= bit_ops:
        high = 0.0
    for _ in range(HALVINGS if high else 0):
        middle = (low + high) / 2 if low else high / 16
        low, high = (middle, high) if minimize_at(middle)[1] > bit_ops else (low, middle)
        if high < 1e-60 or (low and high / low < 1 + 1e-12):
            break
    chosen, used_ops, error = minimize_at(high)
    bound = error + high * (used_ops - bit_ops)  # lower bound from the dual problem
    token_bits = {name: np.array(bits[name])[chosen[name]] for name in names}
    return Reallocation(token_bits, error, max(0.0, error - bound), used_ops)


def settle(
    errors: Mapping[str, Floats],
    bits: Mapping[str, tuple[int, ...]],
    places: Mapping[str, Patchable],
    means: Mapping[str, float],
    bit_ops: Callable[[Mapping[str, float]], float],
    limit: float,
) -> Reallocation:
    """Solve as :func:`solve` when bits of both operands of a product are chosen, where a bit of one costs the other's mean bits.

    Prices are computed at means that move halfway towards the result of each pass. The best result within the limit is
    returned.

    Args:
        errors: activation -> ``(K, T)``.
        bits: activation -> ``(K,)``.
        places: the activations with tokens.
        means: initial mean bits of every component.
        bit_ops: returns the bit operations at given mean bits of every component.
        limit: upper limit of ``bit_ops``.

    Raises:
        PmqError: no result within the limit was found.
    """
    current_means, excess = dict(means), 0.0
    best: Reallocation | None = None
    for index in range(PASSES):
        prices = {name: place.ops_of_a_bit(current_means) for name, place in places.items()}
        counted = sum(prices[name] * place.tokens * current_means[name] for name, place in places.items())
        reallocation = solve(errors, bits, prices, limit - excess - (bit_ops(current_means) - counted))
        used_ops = bit_ops(current_means | reallocation.means)
        excess += used_ops - limit
        if used_ops <= limit and (best is None or reallocation.error < best.error):
            best = replace(reallocation, bit_ops=used_ops)
        if index < PRICE_UPDATES:
            current_means |= {name: (current_means[name] + mean) / 2 for name, mean in reallocation.means.items()}
    if best is None:
        raise PmqError(f"no token bits within {limit / 1e9:.4g}G bit operations were found; allow more bit operations")
    return best
