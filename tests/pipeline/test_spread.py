"""What a search gives to workers is done as in one step: here by an executor that has one worker, this process."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import pmq
from pmq.bench.workers import Overhead, Phase, RecordingExecutor, predicted_seconds, simulated_seconds
from pmq.evaluation.executor import Failed
from tests.conftest import make_tiny
from tests.shallow import few_bits

pytestmark = pytest.mark.usefixtures("shallow")


class Failing(RecordingExecutor):
    """Gives up the first units that have a word in their name, so many of each word."""

    def __init__(self, **words: int) -> None:
        super().__init__()
        self.left = words

    def run(self, units: Any) -> Any:
        for unit in units:
            word = next((word for word in self.left if word in unit.name and self.left[word]), None)
            if word is None:
                yield from super().run([unit])
            else:
                self.left[word] -= 1
                yield unit, Failed("its node was lost")


def search(out: Path, executor: Any, monkeypatch: pytest.MonkeyPatch, recipe: str = "fast") -> pmq.Allocation:
    images = torch.randn(28, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with monkeypatch.context() as patch:
        if executor is not None:
            patch.setattr(import_module("pmq.api.search"), "executor_of", lambda _: executor)
        options = pmq.SearchOptions(n_rounds=2, recipe=recipe)
        split = pmq.DataSplit(n_calibration=8, n_held_out=20)
        return pmq.search(make_tiny(), images, "5bit", space=few_bits(4, 8), out=out, options=options, split=split).allocation


def test_a_search_in_units_writes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = RecordingExecutor()
    search(tmp_path / "plain", None, monkeypatch, "best")
    search(tmp_path / "units", executor, monkeypatch, "best")
    for name in ("sensitivity.csv", "front.csv", "points.csv", "allocations/chosen.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "units" / name).read_bytes()
    assert len(executor.phases) > 6  # fits, sensitivities, parts of the images, finalists
    assert sum(len(phase.task_s) for phase in executor.phases) > 30


def test_a_search_goes_on_without_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Failing(allocation=1, quantizing=2)
    allocation = search(tmp_path / "run", executor, monkeypatch)
    assert not any(executor.left.values())
    assert allocation.metrics["kl"] is not None
    told = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(told) == 1  # whoever needs a quantizer fits it again
    assert all("its node was lost" in line for line in told)
    points = pd.read_csv(tmp_path / "run" / "front.csv")
    assert points["chosen"].sum() == 1


def test_a_table_that_lacks_a_part_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pmq.PmqError, match=r"sensitivity, part 1 of \d+ could not be measured: its node was lost"):
        search(tmp_path / "run", Failing(sensitivity=1), monkeypatch)


def test_the_law_is_near_the_simulation_where_tasks_are_alike() -> None:
    phases = [Phase(1.0, [0.5] * 64), Phase(0.2, [0.1] * 400), Phase(2.0)]
    free = Overhead(0.0, 0.0, 0.0)
    assert simulated_seconds(phases, 1, free) == pytest.approx(3.2 + 32 + 40)
    assert predicted_seconds(phases, 1, free) == pytest.approx(3.2 + 32 + 40)
    assert simulated_seconds(phases, 64, free) == pytest.approx(3.2 + 0.5 + 0.7)
    slow = Overhead(0.01, 0.0, 0.0)
    assert simulated_seconds([Phase(0.0, [0.1] * 1000)], 1000, slow) == pytest.approx(10.1)
    for workers in (1, 2, 8, 32, 128, 1000):
        ratio = predicted_seconds(phases, workers, slow) / simulated_seconds(phases, workers, slow)
        assert 0.85 < ratio < 1.25
