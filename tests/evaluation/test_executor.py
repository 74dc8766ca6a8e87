import sys
from collections.abc import Iterator

import pytest

from pmq.core import PmqError
from pmq.evaluation import LocalExecutor, RayOptions, executor_of
from pmq.evaluation.executor import Unit


def add(state: list[int], value: int) -> int:
    state.append(value)
    return sum(state)


def test_units_are_taken_one_by_one_when_their_results_are_asked_for() -> None:
    state: list[int] = []
    executor = LocalExecutor()
    executor.hold(state)
    executor.share(add, 5)
    seen: list[int] = []

    def units() -> Iterator[Unit]:
        for i in range(3):
            seen.append(len(state))  # depends on the results so far
            yield Unit(i, f"unit {i}", add, (i,))

    assert [(unit.key, result) for unit, result in executor.run(units())] == [(0, 5), (1, 6), (2, 8)]
    assert seen == [1, 2, 3]
    assert executor.n_workers == 0


def test_a_missing_ray_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(PmqError, match=r"pip install 'pmq\[ray\]'"):
        executor_of(RayOptions("local"))
    assert isinstance(executor_of(None), LocalExecutor)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpus": -1.0}, {"cpus": 0.0}, {"task_seconds": 0.0}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PmqError, match=r"`ray_(workers|cpus|timeout)`"):
        RayOptions("local", **wrong)  # type: ignore[arg-type]
