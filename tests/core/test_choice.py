"""Choices of bits and of widths, which stand beside one another wherever something is decided."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from pmq.core.choice import FLOAT, Choice, WidthChoice, bits_of, widths_of
from pmq.core.pruning import PrunedUnit

HALF = WidthChoice(unit=PrunedUnit(kind="hidden", size=8, kept="0-3"))
EITHER = TypeAdapter(WidthChoice | Choice)


def test_decisions_are_told_apart() -> None:
    decided = {"fc1.weight": Choice(bits=4), "fc1.input": FLOAT, "mlp": HALF}
    assert bits_of(decided) == {"fc1.weight": Choice(bits=4), "fc1.input": FLOAT}
    assert widths_of(decided) == {"mlp": HALF}
    assert [option.is_fp32 for option in decided.values()] == [False, True, False]
    assert len({option.key() for option in decided.values()}) == 3


@pytest.mark.parametrize("option", [HALF, Choice(bits=4, granularity="channel"), FLOAT])
def test_either_is_read_as_what_was_written(option: WidthChoice | Choice) -> None:
    assert EITHER.validate_json(option.model_dump_json()) == option


def test_widths_of_earlier_versions_are_read() -> None:
    earlier = FLOAT.model_dump() | {"unit": HALF.unit.model_dump()}
    assert EITHER.validate_python(earlier) == HALF
    for wrong in ({"bits": 4}, {"colour": "red"}):
        with pytest.raises(ValidationError):
            EITHER.validate_python(earlier | wrong)
