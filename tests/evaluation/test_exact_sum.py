import json
import math
import random
from fractions import Fraction

import pytest

from pmq.evaluation.exact_sum import ExactSum


def test_order_and_grouping_do_not_matter_and_the_sum_is_rounded_once() -> None:
    rng = random.Random(0)
    values = [rng.choice((-1, 1)) * rng.random() * 10.0 ** rng.randint(-300, 300) for _ in range(500)]
    shuffled = rng.sample(values, len(values))
    whole = ExactSum.of(values)
    assert ExactSum.of(shuffled[:123]) + ExactSum.of(shuffled[123:]) == whole
    assert float(whole) == math.fsum(values)
    assert sum(map(Fraction, values)) == Fraction(whole.units, 2**1074)


def test_a_journal_restores_it_without_loss() -> None:
    rng = random.Random(1)
    for count in (0, 1, 2, 50):
        total = ExactSum.of([rng.random() * 10.0 ** rng.randint(-20, 3) for _ in range(count)])
        assert ExactSum.from_json(json.loads(json.dumps(total.to_json()))) == total
    assert ExactSum.from_json(3) == ExactSum.of([3.0])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_stays_so(value: float) -> None:
    total = ExactSum.of([1.0, value]) + ExactSum.of([2.0])
    assert str(float(total)) == str(value)
    assert str(total.to_json()) == str(value)
    assert total
