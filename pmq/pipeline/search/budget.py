"""Cost limits of a budget that a search space can meet, and the ladder of limits for budgets of agreement."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pmq.core import Budget, Limits, PmqError
from pmq.core.progress import message
from pmq.metrics import SensitivityTable
from pmq.optimize import Space, Tables, solver_for
from pmq.optimize.tables import UniformCosts

#: bits between the rungs of a ladder, and number of rungs of a ladder in milliseconds
STEP, RUNGS = 0.25, 25


def resolve_budget(budget: Budget, space: Space, reserved: int = 0, whole: Space | None = None) -> Limits:
    """Return the limits of a budget in the space, after ``reserved`` bytes are set aside.

    Uniform bits and shares are those of the space ``whole``, if given: of the same model with all tokens.

    Raises:
        PmqError: the limits are below the space's cheapest point, which the message states.
    """
    if budget.agreement is not None:
        raise PmqError(f"budget {budget.text!r} is an agreement, which only a search can meet: run `pmq search`")
    limits = budget.resolve(UniformCosts(whole or space))
    if limits.size_bytes is not None:
        limits = replace(limits, size_bytes=limits.size_bytes - reserved)
    if limits.latency_ms is not None and space.latency is None:
        raise PmqError(f"budget {budget.text!r} is in milliseconds, but no latency was measured; pass `target` to profile one")
    spare = 1.0 if space.latency is None else 1 + space.latency.margin
    if limits.latency_ms is not None:
        limits = replace(limits, latency_ms=limits.latency_ms / spare)
    tables = Tables.build(space, SensitivityTable.zeros(space.choices))
    costs = tables.lower_bound()
    if limits.latency_ms is not None and costs[2] <= 0:
        raise PmqError(
            f"the latency table predicts {costs[2]:.3g} ms for the fastest allocation: another job disturbed its measurement; "
            "measure again by `pmq profile`, on an idle machine"
        )
    if not limits.allow(*costs):
        lower_bound = f"size={math.ceil((costs[0] + reserved) / 1e2) / 1e4:.4f}MB,bitops={math.ceil(costs[1] / 1e5) / 1e4:.4f}G"
        lower_bound += f",latency={math.ceil(spare * costs[2] * 100) / 100:.2f}ms" if len(costs) > 2 else ""
        raise PmqError(
            f"budget {budget.text!r} is below the cheapest point of search space {space.name!r}; ask for at least {lower_bound}"
        )
    if len(limits.bounds) > 1 and solver_for(tables).solve(limits) is None:  # each can be met, but not together
        raise PmqError(
            f"no allocation of search space {space.name!r} meets all of budget {budget.text!r} at once; raise one of them"
        )
    return limits


def written(limits: Limits) -> str:
    """Return the limits as text in megabytes, bit operations and milliseconds."""
    parts = [] if limits.size_bytes is None else [f"{limits.size_bytes / 1e6:.3f} MB"]
    parts += [] if limits.bit_ops is None else [f"{limits.bit_ops / 1e9:.4g}G bit operations"]
    return ", ".join([*parts, *([] if limits.latency_ms is None else [f"{limits.latency_ms:.3g} ms"])])


def report_limits(budget: Budget, limits: Limits, constraints: str) -> None:
    """Print the limits that a budget has under the user's constraints."""
    message(f"constraints: {constraints}; with them, budget {budget.text} is at most {written(limits) or 'any cost'}")


def ladder(budget: Budget, space: Space) -> list[Limits]:
    """Return rising limits from the space's lower bound to its upper bound, within the budget's other limits.

    They limit one cost: milliseconds where these were measured, otherwise bytes, or bit operations where all choices have
    equal bytes. A rung in bytes or bit operations is the cost of a uniform allocation with a quarter of a bit more than
    the rung below.

    Raises:
        PmqError: no rung is within the budget's other limits.
    """
    outer = resolve_budget(replace(budget, agreement=None), space)
    tables = Tables.build(space, SensitivityTable.zeros(space.choices))
    least, most = tables.lower_bound(), tables.upper_bound()
    if space.latency is not None:
        levels = [Limits(latency_ms=float(ms)) for ms in np.linspace(least[2], most[2], RUNGS)]
    else:
        costs = [UniformCosts(space).uniform(bits, bits) for bits in np.arange(2, 8 + STEP, STEP)]
        levels = [Limits(size_bytes=size) if least[0] < most[0] else Limits(bit_ops=ops) for size, ops in costs]
    levels = [level.tighten(outer.size_bytes, outer.bit_ops, outer.latency_ms) for level in levels]
    possible = [level for level in dict.fromkeys(levels) if level.allow(*least)]
    if not possible:
        raise PmqError(
            f"search space {space.name!r} has no allocation as cheap as its uniform ones; give a budget in bytes or bits"
        )
    return possible
