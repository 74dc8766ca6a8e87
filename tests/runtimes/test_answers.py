"""What outputs say depends on the task; what cannot be outputs is told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pmq.core import PmqError
from pmq.runtimes.answers import answer
from pmq.runtimes.labels import Description

PREPARED = {"input_size": (1, 8, 8), "interpolation": "nearest", "crop_pct": 1.0, "mean": (0.5,), "std": (0.5,)}


def told(outputs: int, names: list[str], task: str = "auto") -> Description:
    preprocess = json.dumps(PREPARED | {"num_classes": outputs, "task": task})
    return Description(preprocess=preprocess, classes=json.dumps(names))  # type: ignore[arg-type]


def said(values: list[float], description: Description, top: int = 5) -> list[tuple[str, int, float]]:
    return answer(np.array([values], np.float32), description, top)


def test_classes_are_told_from_the_likeliest_on() -> None:
    found = said([0.0, 2.0, 1.0], told(3, ["a", "b", "c"]), top=2)
    assert [(name, index) for name, index, _ in found] == [("b", 1), ("c", 2)]
    assert found[0][2] == pytest.approx(np.exp(2) / (1 + np.exp(1) + np.exp(2)))
    assert [name for name, *_ in said([1e30, -1e30], told(2, []))] == ["0", "1"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], ("positive", "negative")), (["ham"], ("positive", "negative")), (["ham", "spam"], ("spam", "ham"))],
)
def test_one_logit_is_the_probability_of_the_second_of_two_names(names: list[str], expected: tuple[str, str]) -> None:
    found = said([3.0], told(1, names))
    assert tuple(name for name, *_ in found) == expected
    assert found[0][2] == pytest.approx(1 / (1 + np.exp(-3.0)))
    assert sum(share for *_, share in found) == pytest.approx(1)


def test_a_regression_gives_all_its_values_as_they_are() -> None:
    assert said([3.0], told(1, [], "regression")) == [("0", 0, 3.0)]
    assert said([3.0, -1.0], told(2, ["x", "y"], "regression"), top=1) == [("x", 0, 3.0), ("y", 1, -1.0)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("outputs", "task"), [(3, "auto"), (1, "binary"), (1, "regression")])
def test_what_is_no_number_is_not_ranked(value: float, outputs: int, task: str) -> None:
    with pytest.raises(PmqError, match="infinite or not a number"):
        said([value, *[0.0] * (outputs - 1)], told(outputs, [], task))


@pytest.mark.parametrize("outputs", [np.zeros((1, 2)), np.zeros((2, 3)), np.zeros(3), np.float32(1)])
def test_outputs_of_another_shape_are_told(outputs: Any) -> None:
    with pytest.raises(PmqError, match=r"not \(1, 3\) as the file states"):
        answer(np.asarray(outputs), told(3, []), 5)
