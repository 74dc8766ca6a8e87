"""Tests of which simulated points become finalists."""

import pandas as pd
import pytest

from pmq.core import PmqError
from pmq.pipeline.search.explore import FOREIGN, REFERENCE
from pmq.pipeline.search.finalists import NEAR, finalists


def points(*rows: tuple[str, float, float]) -> pd.DataFrame:
    """Return simulated points within the budget: source, simulated and predicted error."""
    frame = pd.DataFrame(rows, columns=["source", "kl", "predicted_error"])
    return frame.assign(within=True, genome_id=range(len(frame)))


def test_prediction_and_simulation_rank_finalists_together() -> None:
    frame = points(("exact", 0.10, 0.30), ("nsga2", 0.12, 0.20), ("exact", 0.14, 0.10), ("nsga2", 0.11, 0.40))
    assert finalists(frame, "kl", 2) == [2, 1]


@pytest.mark.parametrize(("times", "kept"), [(NEAR - 0.01, [0, 1]), (NEAR + 0.01, [0])])
def test_the_uniform_point_is_a_finalist_where_it_is_near(times: float, kept: list[int]) -> None:
    frame = points(("exact", 0.10, 0.10), ("uniform w4a4", 0.10 * times, 0.20), ("exact", 0.11, 0.11))
    assert finalists(frame, "kl", 1) == [0]  # in a hurry, none but the first
    assert [row for row in finalists(frame, "kl", 2) if row != 2] == kept


def test_a_uniform_point_outside_the_space_is_one_if_the_space_has_its_bits() -> None:
    frame = points(("exact", 0.10, 0.10), ("uniform w4a4", 0.09, float("nan")), ("fp32", 0.0, float("nan")))
    assert finalists(frame.assign(genome_id=[0, REFERENCE, FOREIGN]), "kl", 3) == [0, 1]
    assert finalists(frame.assign(genome_id=[0, REFERENCE, FOREIGN]), "kl", 1) == [1]
    assert finalists(frame.assign(genome_id=[0, FOREIGN, FOREIGN]), "kl", 3) == [0]


def test_no_point_within_the_budget_is_one_line() -> None:
    with pytest.raises(PmqError, match="raise the budget"):
        finalists(points(("exact", 0.1, 0.1)).assign(within=False), "kl", 3)
