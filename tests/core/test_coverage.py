"""How much of a model is searched, in words and in percent."""

from __future__ import annotations

import pytest

from pmq.core import FLOAT, Choice, Component, Inventory, Operator, PmqError
from pmq.core.component import Uncovered
from pmq.core.coverage import Coverage, check_coverage, coverage

EIGHT = (Choice(bits=8),)


def inventory(conv: int = 0, rest: int = 0) -> Inventory:
    components = tuple(
        Component(layer, slot, kind, 0, (10, 10)) for layer, kind in (("a", "fc1"), ("b", "head")) for slot in ("weight", "input")
    )
    operators = tuple(Operator(layer, macs, (f"{layer}.weight", f"{layer}.input")) for layer, macs in (("a", 60), ("b", 20)))
    uncovered = (Uncovered("c", "a convolution", conv), Uncovered("d", "a convolution", conv), Uncovered("e", "not called"))
    return Inventory(components, operators, rest, uncovered, 80 + 2 * conv)


def test_all_is_searched_where_nobody_says_otherwise() -> None:
    assert coverage(inventory()) == Coverage(100, 100, [])


def test_an_operand_is_enough_and_kinds_are_summed() -> None:
    choices = {"a.weight": (FLOAT,), "a.input": (*EIGHT, FLOAT), "b.weight": (FLOAT,), "b.input": (FLOAT,)}
    found = coverage(inventory(conv=60, rest=200), choices)
    assert found.macs_searched == 30
    assert found.bytes_searched == 0
    assert found.outside == [("a convolution", 60), ("head at 32 bits", 10)]
    searched = coverage(inventory(rest=200), {"a.weight": EIGHT, "a.input": (FLOAT,)})
    assert searched.bytes_searched == 40
    assert searched.outside == [("head at 32 bits", 25)]


def test_inventories_that_did_not_count_know_of_their_own() -> None:
    old = inventory()
    assert coverage(Inventory(old.components, old.operators, 0)).macs_searched == 100


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Coverage(99.99, 99.2, []), "searched: 99.9 % of multiply-accumulates and 99.2 % of weight bytes"),
        (Coverage(90, 90, [("a", 10)]), "searched: 90.0 % of multiply-accumulates and 90.0 % of weight bytes"),
        (
            Coverage(72.46, 95, [("a", 20), ("b", 4), ("c", 2), ("d", 1), ("e", 0.3), ("f", 0.24)]),
            "warning: searched: 72.4 % of multiply-accumulates and 95.0 % of weight bytes; stays FP32: a 20.0 %, b 4.0 %, "
            "c 2.0 %, d 1.0 %, 2 other kinds 0.5 %",
        ),
        (
            Coverage(95, 60, [("a", 5)]),
            "warning: searched: 95.0 % of multiply-accumulates and 60.0 % of weight bytes; stays FP32: a 5.0 %, 40.0 % of weight "
            "bytes",
        ),
    ],
)
def test_one_line_says_what_is_searched(found: Coverage, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_coverage(found)
    assert capsys.readouterr().err == said + "\n"


@pytest.mark.parametrize("found", [Coverage(49.9, 99, [("a", 50.1)]), Coverage(99, 30, [("a", 1)])])
def test_less_than_half_is_refused_or_meant(found: Coverage, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PmqError, match=r"outside: a .*; `partial` continues nevertheless"):
        check_coverage(found)
    assert not capsys.readouterr().err
    check_coverage(found, partial=True)
    assert capsys.readouterr().err.startswith("warning: searched: ")
