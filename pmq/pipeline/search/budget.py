"""From a budget to figures that a space can meet, and to the ladder of them that a wanted accuracy is sought on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pmq.core import Budget, Limits, PmqError
from pmq.core.progress import message
from pmq.metrics import SensitivityTable
from pmq.optimize import Space, Tables, solver_for
from pmq.optimize.tables import UniformCosts

#: bits between rungs of a ladder, and rungs of one in milliseconds
STEP, RUNGS = 0.25, 25


def resolve_budget(budget: Budget, space: Space, reserved: int = 0) -> Limits:
    """Turn a budget into limits that the space can meet, with ``reserved`` bytes for something else.

    Raises:
        PmqError: they are below the space's cheapest point, which the message gives.
    """
    if budget.agreement is not None:
        raise PmqError(f"budget {budget.text!r} asks how little is enough, which only a search of its own can tell: pmq search")
    limits = budget.resolve(UniformCosts(space))
    if limits.size_bytes is not None:
        limits = replace(limits, size_bytes=limits.size_bytes - reserved)
    if limits.latency_ms is not None and space.latency is None:
        raise PmqError(f"budget {budget.text!r} asks for milliseconds, which nobody has measured; name a --target to profile")
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
    """Limits in the units that people use."""
    parts = [] if limits.size_bytes is None else [f"{limits.size_bytes / 1e6:.3f} MB"]
    parts += [] if limits.bit_ops is None else [f"{limits.bit_ops / 1e9:.4g}G bit operations"]
    return ", ".join([*parts, *([] if limits.latency_ms is None else [f"{limits.latency_ms:.3g} ms"])])


def tell_limits(budget: Budget, limits: Limits, wished: str) -> None:
    """Say what a budget means where somebody asked for more than a budget."""
    message(f"as asked: {wished}; with that, budget {budget.text} is at most {written(limits) or 'whatever it takes'}")


def ladder(budget: Budget, space: Space) -> list[Limits]:
    """Limits from the least that the space can meet to the most that it can use, within those that the budget has itself.

    They limit one cost: milliseconds where they were measured, else bytes, else (where all choices have as many bytes) bit
    operations. Each rung of the latter two is what a uniform allocation of a quarter of a bit more costs.

    Raises:
        PmqError: the budget's own limits leave none.
    """
    own = resolve_budget(replace(budget, agreement=None), space)
    tables = Tables.build(space, SensitivityTable.zeros(space.choices))
    least, most = tables.lower_bound(), tables.upper_bound()
    if space.latency is not None:
        levels = [Limits(latency_ms=float(ms)) for ms in np.linspace(least[2], most[2], RUNGS)]
    else:
        costs = [UniformCosts(space).uniform(bits, bits) for bits in np.arange(2, 8 + STEP, STEP)]
        levels = [Limits(size_bytes=size) if least[0] < most[0] else Limits(bit_ops=ops) for size, ops in costs]
    levels = [level.tighten(own.size_bytes, own.bit_ops, own.latency_ms) for level in levels]
    possible = [level for level in dict.fromkeys(levels) if level.allow(*least)]
    if not possible:
        raise PmqError(f"search space {space.name!r} has nothing that is as cheap as its uniform allocations; give a budget")
    return possible
