"""Which tokens a runtime need not compute: left out in whole modules, the rest at the bits that they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pmq.core.errors import PmqError
from pmq.graph.token_skipping import RowUnit
from pmq.patches.allocate import Reallocation, solve
from pmq.patches.sensitivity import TokenErrors
from pmq.patches.tokens import Patchable


def choose_left_out(
    errors: Mapping[str, TokenErrors],
    units: Sequence[RowUnit],
    places: Mapping[str, Patchable],
    means: Mapping[str, float],
    saved: float,
) -> Reallocation:
    """Choose tokens to leave out of ``units``, those of least error until ``saved`` bit operations are; free ones anyway.

    A token is left out of all of a unit's activations or of none: its error is the largest of theirs, as each of them
    alone takes away what the unit adds to the token.

    Args:
        errors: of the units' activations at 0 bits and at their own.
        units: see :class:`pmq.graph.token_skipping.RowUnit`.
        places: what is known of the activations.
        means: of every component's bits.
        saved: bit operations.

    Raises:
        PmqError: leaving out all of them saves less.
    """
    if not units:
        raise PmqError("this model has no part that computes tokens one by one")
    error, price = {}, {}
    for unit in units:
        error[unit.module] = np.stack([np.max([errors[name].error[k] for name in unit.activations], 0) for k in (0, 1)])
        price[unit.module] = sum(places[name].ops_of_a_bit(means) * means[name] for name in unit.activations)
    whole = sum(price[unit.module] * unit.rows for unit in units)
    found = solve(error, {unit.module: (0, 1) for unit in units}, price, whole - saved)
    bits = {name: found.bits[unit.module] * int(means[name]) for unit in units for name in unit.activations}
    return Reallocation(bits, found.error, found.gap, found.bit_ops)
