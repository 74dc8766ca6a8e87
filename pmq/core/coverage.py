"""The share of a model that a search decides about, and the operators that stay in FP32."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pmq.core.bits import FP32
from pmq.core.choice import Choice
from pmq.core.component import Inventory, Operator
from pmq.core.errors import PmqError
from pmq.core.progress import message

#: percent of a model's multiply-accumulates and weight bytes below which a search warns, and below which it does not start
ENOUGH, LEAST = 90.0, 50.0
#: most kinds of operators named in a message
_NAMED = 4


@dataclass(frozen=True)
class Coverage:
    """The share of a model that is searched.

    Attributes:
        macs_searched: percent of its multiply-accumulates.
        bytes_searched: percent of the bytes of its parameters.
        outside: other operators by kind, with their percent of the multiply-accumulates, the largest first.
    """

    macs_searched: float
    bytes_searched: float
    outside: list[tuple[str, float]]

    def __str__(self) -> str:
        return f"{_percent(self.macs_searched)} of multiply-accumulates and {_percent(self.bytes_searched)} of weight bytes"

    @property
    def outside_text(self) -> str:
        """The operators outside in one line."""
        named = [f"{what} {_percent(percent)}" for what, percent in self.outside[:_NAMED]]
        others = self.outside[_NAMED:]
        if others:
            named.append(f"{len(others)} other kinds {_percent(sum(percent for _, percent in others))}")
        if self.bytes_searched < ENOUGH:
            named.append(f"{_percent(100 - self.bytes_searched)} of weight bytes")
        return ", ".join(named)


#: coverage of runs that do not record theirs
EVERYTHING = Coverage(100.0, 100.0, [])


def coverage(inventory: Inventory, choices: Mapping[str, Sequence[Choice]] | None = None) -> Coverage:
    """Return the coverage of a model by the components of ``choices``, or by all of its components.

    A product counts as searched if one of its operands may have less than 32 bits. Where an inventory has no count of all
    multiply-accumulates, those of its components count as all.
    """
    chosen = {name for name in inventory.names if choices is None or any(choice.bits < FP32 for choice in choices.get(name, ()))}
    outside: Counter[str] = Counter()
    for operator in inventory.operators:
        if chosen.isdisjoint(operator.operands):
            outside[f"{_kind(operator, inventory)} at 32 bits"] += operator.macs
    for entry in inventory.uncovered:
        outside[entry.reason] += entry.macs
    total = max(inventory.total_macs, inventory.macs, 1)
    weights = [component for component in inventory if component.slot == "weight"]
    held = sum(component.numel * 4 for component in weights)
    searched = sum(component.numel * 4 for component in weights if component.name in chosen)
    macs = sum(operator.macs for operator in inventory.operators if not chosen.isdisjoint(operator.operands))
    percents = [(what, 100 * macs / total) for what, macs in outside.most_common() if macs]
    return Coverage(100 * macs / total, 100 * searched / max(held + inventory.rest_bytes, 1), percents)


def check_coverage(covered: Coverage, partial: bool = False) -> None:
    """Print how much is searched, as a warning where much is outside.

    Raises:
        PmqError: less than half is searched, and ``partial`` is off.
    """
    least = min(covered.macs_searched, covered.bytes_searched)
    if least < LEAST and not partial:
        raise PmqError(f"only {covered} can be searched; outside: {covered.outside_text}; `partial` continues nevertheless")
    message(f"searched: {covered}" if least >= ENOUGH else f"warning: searched: {covered}; stays FP32: {covered.outside_text}")


def _kind(operator: Operator, inventory: Inventory) -> str:
    first = inventory[operator.operands[0]]
    return first.kind if first.slot == "weight" else operator.name.rpartition(".")[2]


def _percent(value: float) -> str:
    """Format a percentage with one decimal, rounded down so that less than all is never shown as 100 %.

    >>> _percent(99.97), _percent(100.0)
    ('99.9 %', '100.0 %')
    """
    return f"{math.floor(round(value, 6) * 10) / 10:.1f} %"
