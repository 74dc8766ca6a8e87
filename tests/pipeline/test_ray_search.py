"""A search, a sensitivity table and an evaluation on a real cluster give what one process gives, whatever is lost meanwhile."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import pmq
from pmq.core.rundir import RunDir
from pmq.evaluation import RayOptions
from tests.cluster import cluster, needs_ray, one_thread
from tests.shallow import few_bits

__all__ = ["cluster", "one_thread"]
pytestmark = [needs_ray, pytest.mark.usefixtures("one_thread", "shallow"), pytest.mark.timeout(280)]
FILES = ("sensitivity.csv", "costs.csv", "front.csv", "points.csv", "spent.csv", "decisions.json", "allocations/chosen.json")


@pytest.fixture(scope="module")
def embedded() -> tuple[Any, torch.Tensor, Any]:
    model = pmq.create_model()
    images = pmq.open_images(None, model)
    return model, images.calibration_images(80, seed=0), images


def search(embedded: tuple[Any, torch.Tensor, Any], out: Path, **run: Any) -> Path:
    """A search of the embedded model with all of its steps, in a few rounds."""
    model, images, _ = embedded
    split = pmq.DataSplit(n_calibration=16, n_held_out=64)
    options = pmq.SearchOptions(n_rounds=2)
    pmq.search(model, images, "4bit", space=few_bits(2, 4, 8), out=out, options=options, split=split, run=pmq.RunOptions(**run))
    return out


@pytest.fixture(scope="module")
def here(embedded: tuple[Any, torch.Tensor, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search in this process, which the others are compared with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = search(embedded, tmp_path_factory.mktemp("here") / "run")
    torch.set_num_threads(threads)
    return run


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def assert_same(one: Path, other: Path) -> None:
    """All files of results are equal to the byte, and both journals have the same measurements, each once."""
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    tensors = [sorted((run / "allocations").glob("*.safetensors")) for run in (one, other)]
    assert [path.read_bytes() for path in tensors[0]] == [path.read_bytes() for path in tensors[1]]
    assert max(Counter(entry["key"] for entry in journal(other)).values()) == 1
    assert {e["key"]: e["value"] for e in journal(one)} == {e["key"]: e["value"] for e in journal(other)}


class Disturbance:
    """Does something once the journal has a number of measurements."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, actions: dict[int, Any]) -> None:
        self.count, self.actions, self.executor = 0, actions, None
        record, executor_of = RunDir.record, pmq.evaluation.executor_of

        def recorded(run: RunDir, key: str, value: dict[str, Any]) -> None:
            record(run, key, value)
            self.count += 1
            if self.count in self.actions:
                self.actions.pop(self.count)(self.executor)

        def remembered(options: RayOptions | None) -> Any:
            self.executor = executor_of(options)
            return self.executor

        monkeypatch.setattr(RunDir, "record", recorded)
        monkeypatch.setattr(import_module("pmq.api.search"), "executor_of", remembered)


def kill_worker(executor: Any) -> None:
    os.kill(next(actor.process for actor in executor._actors if actor.ready), signal.SIGKILL)


def test_a_search_that_loses_a_worker_and_a_node_finds_the_same(
    cluster: Any,
    here: Path,
    embedded: tuple[Any, torch.Tensor, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node, total = cluster.list_all_nodes()[-1], len(journal(here))
    simulations = [i for i, entry in enumerate(journal(here)) if entry["key"].startswith("simulation/")]
    disturbance = Disturbance(monkeypatch, {simulations[5]: kill_worker, simulations[12]: lambda _: cluster.remove_node(node)})
    run = search(embedded, tmp_path / "run", ray=RayOptions(cluster.address))
    assert not disturbance.actions
    assert disturbance.count == total
    told = capsys.readouterr().err
    assert "its process was killed" in told
    assert "its node was lost" in told
    assert_same(here, run)


def test_a_search_whose_driver_is_stopped_goes_on_with_what_it_had(
    cluster: Any, here: Path, embedded: tuple[Any, torch.Tensor, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: Any) -> None:
        raise SystemExit

    stopped = Disturbance(monkeypatch, {len(journal(here)) // 2: stop})
    with pytest.raises(SystemExit):
        search(embedded, tmp_path / "run", ray=RayOptions(cluster.address))
    before = stopped.count
    again = Disturbance(monkeypatch, {})
    run = search(embedded, tmp_path / "run", ray=RayOptions(cluster.address), resume=True)
    assert again.count == len(journal(here)) - before
    assert_same(here, run)


def test_sensitivities_are_those_of_one_process(cluster: Any, embedded: tuple[Any, torch.Tensor, Any]) -> None:
    model, images, _ = embedded
    metrics = ("measured", "fisher_shrunk", "gradient", "snip")
    tables = [
        pmq.sensitivity(model, images[:32], metrics, space=few_bits(2, 4, 8), n_calibration=16, batch_size=8, ray=ray)
        for ray in (None, RayOptions(cluster.address))
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_an_evaluation_is_that_of_one_process_though_a_node_is_lost(
    cluster: Any, embedded: tuple[Any, torch.Tensor, Any], here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pmq.core.journal import Journal

    model, calibration, images = embedded
    node, record, seen = cluster.list_all_nodes()[-1], Journal.record, []

    def recorded(journal: Journal, key: str, value: dict[str, Any]) -> None:
        record(journal, key, value)
        seen.append(key)
        if len(seen) == 3:
            cluster.remove_node(node)

    def evaluate(ray: RayOptions | None) -> pd.DataFrame:
        shards = images.evaluation_shards(100, range(2450))
        return pmq.evaluate(
            *(model, [here, "w4a4", "fp32"], shards),
            calibration_images=calibration[:16],
            recipe="fast",
            checkpoints=tmp_path,
            ray=ray,
        ).drop(columns="images_per_s")

    expected = evaluate(None)
    monkeypatch.setattr(Journal, "record", recorded)
    pd.testing.assert_frame_equal(evaluate(RayOptions(cluster.address)), expected, check_exact=True)
    n_shards = len(images.evaluation_shards(100, range(2450)))
    assert n_shards > 4 and sorted(seen) == sorted(f"shard/{i}" for i in range(n_shards))
    assert not list(tmp_path.iterdir())  # nothing is left behind by a finished evaluation


def test_the_command_line_takes_a_cluster(cluster: Any, here: Path, tmp_path: Path) -> None:
    from tests.conftest import pmq as command

    flags = ["--limit", "600", "--json", "--threads", "1"]
    done = [
        command("evaluate", str(here), *flags, *more, cwd=tmp_path, fresh=True)
        for more in ([], ["--ray", cluster.address, "--ray-workers", "2"])
    ]
    assert [one.returncode for one in done] == [0, 0], done[1].stderr
    figures = [json.loads(one.stdout) for one in done]
    assert figures[0] | {"images_per_s": 0} == figures[1] | {"images_per_s": 0}
