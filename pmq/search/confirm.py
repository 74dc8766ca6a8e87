"""Confirm a table where it matters: the choices next to its optimum, measured by another metric."""

from __future__ import annotations

import math
from statistics import median

from pmq.core.choice import Choice
from pmq.search.space import Space
from pmq.search.tables import Genomes
from pmq.sensitivity.table import SensitivityTable

#: least error that counts: logarithms are taken
LEAST = 1e-12


def neighbours(space: Space, genome: Genomes) -> dict[str, list[Choice]]:
    """Choices that a genome ``(D,)`` makes, and those one step from them, for each component; FP32 is none."""
    found: dict[str, list[Choice]] = {}
    for decision, at in zip(space.decisions, map(int, genome), strict=True):
        for name, choices in zip(decision.components, decision.choices, strict=True):
            found[name] = [c for c in choices[max(0, at - 1) : at + 2] if not c.is_float]
    return {name: found[name] for name in space.inventory.names}


def confirmed(table: SensitivityTable, measured: SensitivityTable) -> SensitivityTable:
    """Give ``table`` with, for each error that was ``measured`` too, the geometric mean of both.

    Two metrics err in different ways: that of the second order does not see that large errors are not quadratic, that of
    single outputs is noisy. The second is scaled to the first by the median of their ratios, so that errors measured
    and not measured stay comparable.
    """
    joined = SensitivityTable(table.metric, {n: dict(row) for n, row in table.errors.items()}, table.seconds + measured.seconds)
    logs = {(n, c): math.log(max(error, LEAST) / max(table.get(n, c), LEAST)) for n, c, error in measured}
    shift = median(logs.values()) if logs else 0.0
    for (name, choice), log in logs.items():
        joined.put(name, choice, max(table.get(name, choice), LEAST) * math.exp((log - shift) / 2))
    return joined
