"""Which tokens get which bits: the least error within bit operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pmq.core.errors import PmqError
from pmq.patches.sensitivity import Floats, TokenErrors
from pmq.patches.tokens import Patchable

#: halvings of the interval in which the price of a bit operation lies
HALVINGS = 100
#: passes in which prices are renewed, and further ones that come close to the limit
RENEWED, PASSES = 8, 16
#: least share kept of a position's own estimate, that whole layers of tokens do not change their bits at one price
TIE = 1e-6


def shrunk(errors: TokenErrors, prefix: int) -> Floats:
    """Draw what was estimated of each position towards the mean of all patches, by how much of it is noise.

    Positions differ in truth by ``between`` and in the estimate by the noise beside that; the share of the former is what
    is kept of a position's own estimate (empirical Bayes).
    """
    error = errors.error.copy()
    patches, noise = error[:, prefix:], errors.noise[:, prefix:].mean(1, keepdims=True)
    mean, variance = patches.mean(1, keepdims=True), patches.var(1, keepdims=True)
    kept = np.clip(variance - noise, 0, None) / np.maximum(variance, 1e-300)
    kept = np.maximum(kept, TIE)
    error[:, prefix:] = mean + kept * (patches - mean)
    return error


def pooled(errors: TokenErrors, prefix: int, groups: int = 14) -> Floats:
    """Replace the errors of neighbouring ranks by their mean, ``groups`` of them: bits then are shares of the tokens."""
    error = errors.error.copy()
    for part in np.array_split(np.arange(prefix, error.shape[1]), groups):
        if len(part):
            error[:, part] = error[:, part].mean(1, keepdims=True)
    return error


@dataclass(frozen=True)
class Reallocation:
    """Bits of tokens ``(T,)`` by activation, the error that is predicted of them, and how far the optimum may be below."""

    bits: dict[str, NDArray[np.int64]]
    error: float
    gap: float
    bit_ops: float

    @property
    def means(self) -> dict[str, float]:
        """Activation -> bits of its tokens in the mean."""
        return {name: float(bits.mean()) for name, bits in self.bits.items()}


def solve(
    errors: Mapping[str, Floats], bits: Mapping[str, tuple[int, ...]], prices: Mapping[str, float], bit_ops: float
) -> Reallocation:
    """Give each token the bits that are best at one price for a bit operation, the lowest that keeps within ``bit_ops``.

    Tokens are many and small beside the budget, so this optimum of the Lagrangian, whose distance from the true one is
    told by duality, is that of the integer programme but for a token or so.

    Args:
        errors: activation -> ``(K, T)``.
        bits: activation -> ``(K,)``.
        prices: activation -> bit operations that one bit of one token costs.
        bit_ops: what may be spent.

    Raises:
        PmqError: even the cheapest bits are above the budget.
    """
    names = list(errors)
    costs = {name: prices[name] * np.array(bits[name], float)[:, None] for name in names}

    def at(price: float) -> tuple[dict[str, NDArray[np.int64]], float, float]:
        chosen = {name: (errors[name] + price * costs[name]).argmin(0) for name in names}
        spent = sum(float(costs[name][chosen[name], 0].sum()) for name in names)
        error = sum(float(np.take_along_axis(errors[name], chosen[name][None], 0).sum()) for name in names)
        return chosen, spent, error

    least = sum(float(costs[name].min() * errors[name].shape[1]) for name in names)
    if least > bit_ops:
        raise PmqError(f"the cheapest bits of all tokens take {least / 1e9:.4g}G bit operations, {bit_ops / 1e9:.4g}G are left")
    low, high = 0.0, 1.0
    while at(high)[1] > bit_ops:
        high *= 16
    if at(0.0)[1] <= bit_ops:
        high = 0.0
    for _ in range(HALVINGS if high else 0):
        middle = (low + high) / 2 if low else high / 16
        low, high = (middle, high) if at(middle)[1] > bit_ops else (low, middle)
        if high < 1e-60 or (low and high / low < 1 + 1e-12):
            break
    chosen, spent, error = at(high)
    bound = error + high * (spent - bit_ops)  # of the dual
    found = {name: np.array(bits[name])[chosen[name]] for name in names}
    return Reallocation(found, error, max(0.0, error - bound), spent)


def settle(
    errors: Mapping[str, Floats],
    bits: Mapping[str, tuple[int, ...]],
    places: Mapping[str, Patchable],
    means: Mapping[str, float],
    bit_ops: Callable[[Mapping[str, float]], float],
    limit: float,
) -> Reallocation:
    """As :func:`solve`, where bits of both operands of a product are chosen: a bit of one costs the mean bits of the other.

    Prices are taken at means that go halfway to those found in each pass, and the best that keeps within the limit is the
    result.

    Args:
        errors: activation -> ``(K, T)``.
        bits: activation -> ``(K,)``.
        places: what is known of the activations.
        means: of every component's bits, to begin with.
        bit_ops: what mean bits of every component take.
        limit: of ``bit_ops``.

    Raises:
        PmqError: nothing within the limit was found.
    """
    now, over = dict(means), 0.0
    best: Reallocation | None = None
    for turn in range(PASSES):
        prices = {name: place.ops_of_a_bit(now) for name, place in places.items()}
        counted = sum(prices[name] * place.tokens * now[name] for name, place in places.items())
        found = solve(errors, bits, prices, limit - over - (bit_ops(now) - counted))
        taken = bit_ops(now | found.means)
        over += taken - limit
        if taken <= limit and (best is None or found.error < best.error):
            best = replace(found, bit_ops=taken)
        if turn < RENEWED:
            now |= {name: (now[name] + mean) / 2 for name, mean in found.means.items()}
    if best is None:
        raise PmqError(f"no bits of tokens within {limit / 1e9:.4g}G bit operations were found; allow some more")
    return best
