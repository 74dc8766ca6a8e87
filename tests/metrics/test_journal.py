"""Sums over parts of the images are journaled as they are made, and gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmq.core.rundir import RunDir
from pmq.metrics import Probe
from pmq.pipeline.measure import measure
from tests.conftest import Tiny


class Killed(Exception):
    pass


class Killing(RunDir):
    """A run that is killed before it writes its ``last`` entry."""

    last = 0

    def record(self, key: str, value: dict) -> None:
        if self.last == 0:
            raise Killed
        self.last -= 1
        super().record(key, value)


@pytest.mark.parametrize("metric", ["fisher_shrunk", "fisher", "gradient", "snip"])
@pytest.mark.parametrize("last", [1, 3])  # among the sums, among the errors
def test_a_killed_measurement_goes_on_from_its_sums(tiny: Tiny, simulator, tmp_path: Path, metric: str, last: int) -> None:
    choices = {name: tiny.space.choices[name] for name in ("head.weight", "blocks.0.attn.v", "blocks.1.mlp.fc1.input")}
    probe = Probe(simulator, tiny.images, batch_size=8, seed=3)  # two batches
    whole = measure(probe, choices, metric, RunDir(tmp_path / "whole", {}), "x/")
    killed = Killing(tmp_path / "killed", {})
    killed.last = last
    with pytest.raises(Killed):
        measure(probe, choices, metric, killed, "x/")
    kept = (tmp_path / "killed" / "journal.jsonl").read_text()
    assert kept.count("\n") == last
    again = measure(probe, choices, metric, RunDir(tmp_path / "killed", {}, resume=True), "x/")
    assert again.errors == whole.errors
    journal = (tmp_path / "killed" / "journal.jsonl").read_text()
    assert journal.startswith(kept)
    assert sorted(journal.splitlines()) == sorted((tmp_path / "whole" / "journal.jsonl").read_text().splitlines())
