"""Decisions of a search: the components and choices that each digit of a genome stands for."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pmq.core import Choice, Inventory, PmqError
from pmq.core.choice import WidthChoice
from pmq.core.files import quoted, read_json
from pmq.core.genomes import DIGITS
from pmq.core.validation import validated


class TakenTogether(BaseModel):
    """Components, or a prunable unit, that share one decision, and the choices of each."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    components: tuple[str, ...] = Field(min_length=1)
    choices: tuple[tuple[WidthChoice | Choice, ...], ...] = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    decisions: tuple[TakenTogether, ...] = Field(min_length=1)


GenomeDecisions = tuple[TakenTogether, ...]


def read_decisions(path: Path, inventory: Inventory) -> GenomeDecisions:
    """Read the decisions of a search.

    Raises:
        PmqError: the file cannot be read, does not cover exactly the components of ``inventory``, or has components of one
            decision with different numbers of choices.
    """
    label = f"decisions {quoted(path)}"
    decisions = validated(_File, read_json(path, "decisions"), label).decisions
    for number, decision in enumerate(decisions):
        lengths = {len(row) for row in decision.choices}
        if len(decision.choices) != len(decision.components) or len(lengths) != 1 or not 1 <= min(lengths) <= len(DIGITS):
            raise PmqError(f"{label}: decision {number} must have 1 to {len(DIGITS)} choices, as many for each of its components")
    bits = [
        name for d in decisions for name, row in zip(d.components, d.choices, strict=True) if not isinstance(row[0], WidthChoice)
    ]
    if sorted(bits) != sorted(inventory.names):
        raise PmqError(f"{label} do not cover exactly the components of inventory.json")
    return decisions
