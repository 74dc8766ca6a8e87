"""Token skipping: tokens that a runtime need not compute in whole modules; the other tokens keep their bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pmq.core.errors import PmqError
from pmq.graph.token_skipping import TokenwiseUnit
from pmq.patches.allocate import Reallocation, solve
from pmq.patches.sensitivity import TokenErrors
from pmq.patches.tokens import Patchable


def choose_left_out(
    errors: Mapping[str, TokenErrors],
    units: Sequence[TokenwiseUnit],
    places: Mapping[str, Patchable],
    means: Mapping[str, float],
    saved: float,
) -> Reallocation:
    """Choose the tokens of ``units`` to skip, by ascending error until ``saved`` bit operations are saved, and all without error.

    A token is skipped in all activations of a unit or in none. Its error is the largest of theirs, because each of them alone
    removes what the unit adds to the token.

    Args:
        errors: errors of the units' activations at 0 bits and at their own bits.
        units: see :class:`pmq.graph.token_skipping.TokenwiseUnit`.
        places: the activations with tokens.
        means: mean bits of every component.
        saved: bit operations to save.

    Raises:
        PmqError: skipping all tokens saves less.
    """
    if not units:
        raise PmqError("this model has no part that computes tokens independently, so none can be skipped")
    unit_errors, prices = {}, {}
    for unit in units:
        unit_errors[unit.module] = np.stack([np.max([errors[name].error[k] for name in unit.activations], 0) for k in (0, 1)])
        prices[unit.module] = sum(places[name].ops_of_a_bit(means) * means[name] for name in unit.activations)
    total_ops = sum(prices[unit.module] * unit.n_tokens for unit in units)
    solution = solve(unit_errors, {unit.module: (0, 1) for unit in units}, prices, total_ops - saved)
    bits = {name: solution.bits[unit.module] * int(means[name]) for unit in units for name in unit.activations}
    return Reallocation(bits, solution.error, solution.gap, solution.bit_ops)
