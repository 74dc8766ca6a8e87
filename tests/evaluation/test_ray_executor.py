"""Units of work on a real cluster: workers and nodes that are lost, tasks that fail, hang or need too much memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pmq.core import PmqError
from pmq.evaluation import RayOptions
from pmq.evaluation.executor import Failed, Unit
from tests.cluster import cluster, needs_ray, one_thread, two_nodes

__all__ = ["cluster", "one_thread"]
pytestmark = [needs_ray, pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(180)]


def squared(state: int, value: int) -> int:
    time.sleep(0.05)
    return state + value * value


def process(state: int, value: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def broken(state: int, value: int) -> int:
    if value == 3:
        raise OSError("shard 3 is unreadable")
    return value


def broken_twice(state: int, log: str, value: int) -> int:
    if value == 3:
        with Path(log).open("a") as file:
            file.write("tried\n")
        if Path(log).read_text().count("\n") < 3:
            raise OSError("shard 3 is unreadable")
    return value


def hanging(state: int, value: int) -> int:
    if value == 2:
        time.sleep(60)
    return value


def deadly(state: int, value: int) -> int:
    if value == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return value


def raised(state: list[int], value: int) -> None:
    state[0] += value


def first(state: list[int], value: int) -> int:
    time.sleep(0.02)
    return state[0] + value


def kill_one_of(executor: Any) -> None:
    os.kill(next(actor.process for actor in executor._actors if actor.ready), signal.SIGKILL)


def units(function: Any, count: int, *before: Any) -> list[Unit]:
    return [Unit(i, f"unit {i}", function, (*before, i)) for i in range(count)]


def options(cluster: Any, **more: Any) -> RayOptions:
    return RayOptions(cluster.address, **more)


def executor_of(options: RayOptions) -> Any:
    from pmq.evaluation import executor_of

    return executor_of(options)


def test_every_unit_has_one_result_though_a_worker_and_a_node_are_lost(cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    node = cluster.list_all_nodes()[-1]
    with executor_of(options(cluster)) as executor:
        assert executor.n_workers == 2
        executor.hold(100)
        results = []
        for unit, result in executor.run(units(squared, 120)):
            results.append((unit.key, result))
            if len(results) == 10:
                kill_one_of(executor)
            if len(results) == 40:
                cluster.remove_node(node)
        assert sorted(results) == [(i, 100 + i * i) for i in range(120)]
    told = capsys.readouterr().err
    assert "its process was killed" in told
    assert "its node was lost" in told
    assert all(line.startswith(("worker ", "unit ")) for line in told.splitlines()), told


def test_what_workers_share_reaches_those_that_replace_others_too(cluster: Any) -> None:
    with executor_of(options(cluster)) as executor:
        executor.hold([10])
        executor.share(raised, 5)
        results = []
        for _, result in executor.run(units(first, 60)):
            results.append(result)
            if len(results) == 5:
                kill_one_of(executor)
        executor.share(raised, 100)
        assert sorted(results) == [15 + i for i in range(60)]
        assert sorted(result for _, result in executor.run(units(first, 20))) == [115 + i for i in range(20)]


def test_a_unit_is_repeated_elsewhere_and_given_up_after_three_failures(cluster: Any, tmp_path: Path) -> None:
    with executor_of(options(cluster)) as executor:
        executor.hold(0)
        results = {unit.key: result for unit, result in executor.run(units(broken, 6))}
        assert results.pop(3) == Failed("shard 3 is unreadable")
        assert results == {i: i for i in (0, 1, 2, 4, 5)}
        log = str(tmp_path / "log")
        assert {unit.key: result for unit, result in executor.run(units(broken_twice, 6, log))} == {i: i for i in range(6)}
        results = {unit.key: result for unit, result in executor.run(units(deadly, 6))}
        assert "its process was killed" in results.pop(2).reason
        assert results == {i: i for i in (0, 1, 3, 4, 5)}


def test_a_unit_that_takes_too_long_is_given_up_and_the_others_are_done(cluster: Any) -> None:
    with executor_of(options(cluster, task_seconds=2.0)) as executor:
        executor.hold(0)
        results = {unit.key: result for unit, result in executor.run(units(hanging, 8))}
    assert isinstance(results[2], Failed)
    assert "longer than 2 s" in results.pop(2).reason
    assert results == {i: i for i in (0, 1, 3, 4, 5, 6, 7)}


def test_results_that_nobody_asked_for_are_not_those_of_the_next_run(cluster: Any) -> None:
    with executor_of(options(cluster)) as executor:
        executor.hold(0)
        next(executor.run(units(process, 50)))
        results = list(executor.run(units(squared, 10)))
        assert sorted((unit.key, result) for unit, result in results) == [(i, i * i) for i in range(10)]
        assert not any(True for _ in executor.run([]))


def test_what_the_cluster_has_no_room_for_is_refused(cluster: Any) -> None:
    for changed, message in (({"workers": 3}, "room for 2"), ({"cpus": 4.0}, "room for 0"), ({"gpus": 1.0}, "room for 0")):
        with pytest.raises(PmqError, match=message):
            executor_of(options(cluster, **changed))


def test_a_state_that_the_object_store_cannot_take_is_one_line() -> None:
    with two_nodes(local_fs_capacity_threshold=0.0) as cluster, executor_of(options(cluster)) as executor:  # no disk to spill to
        executor.hold([0])
        with pytest.raises(PmqError, match=r"full: the model with its images needs 400 MB; start Ray with a larger"):
            executor.hold(torch.zeros(100_000_000))


def test_workers_that_run_out_of_memory_are_told_as_such() -> None:
    with two_nodes(memory_usage_threshold=0.001) as cluster, executor_of(options(cluster)) as executor:  # it is always exceeded
        executor.hold(0)
        with pytest.raises(PmqError, match="workers of Ray were lost without a result between them, the last one: it ran out of"):
            list(executor.run(units(hanging, 8)))


def test_no_cluster_is_one_line() -> None:
    with pytest.raises(PmqError, match="ray start --head"):
        executor_of(RayOptions("auto"))
    with pytest.raises(PmqError, match="not auto, local, HOST:PORT"):
        executor_of(RayOptions("somewhere"))


def test_a_cluster_whose_token_is_missing_is_one_line(tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    line = [sys.executable, "-m", "pmq", "search", "--ray", "127.0.0.1:6399", "--out", str(tmp_path / "run")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    told = done.stderr.splitlines()[-1]
    assert told.startswith("pmq: Ray at '127.0.0.1:6399' cannot be reached") and "token" in told
    assert not (tmp_path / "run").exists()
