"""What each digit of a genome stands for, as a run tells it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pmq.core import Choice, Inventory, PmqError
from pmq.core.choice import WidthChoice
from pmq.core.files import quoted, read_json
from pmq.core.validation import validated


class TakenTogether(BaseModel):
    """Components, or a unit, that take one choice together, and the choices of each."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    components: tuple[str, ...] = Field(min_length=1)
    choices: tuple[tuple[WidthChoice | Choice, ...], ...] = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    decisions: tuple[TakenTogether, ...] = Field(min_length=1)


Decisions = tuple[TakenTogether, ...]


def read_decisions(path: Path, inventory: Inventory) -> Decisions:
    """Read what a search decided about.

    Raises:
        PmqError: it cannot be read, or is not of exactly the components of ``inventory``, or its choices do not pair.
    """
    what = f"decisions {quoted(path)}"
    found = validated(_File, read_json(path, "decisions"), what).decisions
    for number, decision in enumerate(found):
        lengths = {len(row) for row in decision.choices}
        if len(decision.choices) != len(decision.components) or len(lengths) != 1 or not 1 <= min(lengths) <= 36:
            raise PmqError(f"{what}: decision {number} does not have as many choices for each of its components")
    bits = [name for d in found for name, row in zip(d.components, d.choices, strict=True) if not isinstance(row[0], WidthChoice)]
    if sorted(bits) != sorted(inventory.names):
        raise PmqError(f"{what} are not of exactly the components of inventory.json")
    return found
