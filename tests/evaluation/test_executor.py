from collections.abc import Iterator

from pmq.evaluation import LocalExecutor
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
