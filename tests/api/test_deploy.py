"""From allocations to proved files, through the API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pmq
from pmq.api import resolve
from pmq.core import PmqError
from pmq.cost import CostModel, LatencyTable
from pmq.graph import analyse
from pmq.models import create_model
from pmq.optimize import read_space
from pmq.pipeline.latency_tables import known_latency
from tests.asked import asked
from tests.conftest import make_tiny
from tests.shallow import few_bits

pytestmark = pytest.mark.usefixtures("shallow")


def test_a_search_for_milliseconds_is_deployed_and_proved(images: torch.Tensor, table: LatencyTable, tmp_path: Path) -> None:
    model = make_tiny()
    int8, fp32 = (table.rest_ms + sum(row[key] for row in table.layers.values()) for key in ("w8 x 8", "wfp32 x fp32"))
    # Only 8-bit weights are small enough, and other jobs may have disturbed the clock while their layers were timed.
    most = max(2 * min(int8, fp32), 1.01 * int8)
    budget = f"size=40kB,latency={most:.6f}ms"
    found = pmq.search(
        model,
        images,
        budget,
        space="onnxruntime",
        out=tmp_path / "run",
        options=pmq.SearchOptions(latency=table),
        split=pmq.DataSplit(n_calibration=8, n_held_out=16),
    )
    assert found.allocation.target == "onnxruntime"
    achieved = found.allocation.budget.achieved
    assert achieved["latency_ms"] <= most
    assert achieved["size_bytes"] <= 40_000
    assert {"latency_ms", "size_bytes", "bit_ops"} <= set(found.points.columns)
    assert found.points["source"].isin(["uniform int8", "uniform float"]).any()
    assert LatencyTable.load(tmp_path / "run" / "latency.json") == table
    deployed = pmq.deploy(model, found.allocation, "onnxruntime", images[24:], tmp_path / "out", latency=table, n_passes=3)
    # Other jobs may disturb the clock, and of sixteen images one that is close may go either way.
    assert {name for name, check in deployed.proof.items() if not check.passed} <= {"latency", "agreement"}
    assert deployed.agreement_simulated is not None
    assert deployed.agreement_simulated >= 85
    assert set(deployed.proof) == {"layers", "agreement", "bits", "size", "latency"}
    assert deployed.predicted_latency_ms == pytest.approx(achieved["latency_ms"])
    said = json.loads((tmp_path / "out" / "deployment.json").read_text())
    assert said["status"] == ("proved" if deployed.passed else "failed")
    assert (tmp_path / "out" / said["file"]).stat().st_size == said["size_bytes"]


def test_a_failed_proof_marks_the_file(images: torch.Tensor, table: LatencyTable, tmp_path: Path) -> None:
    wrong = table.model_copy(update={"layers": {n: row | {"w8 x 8": 100.0} for n, row in table.layers.items()}})
    deployed = pmq.deploy(
        make_tiny(), "w8a8", "onnxruntime", images[24:], tmp_path, calibration_images=images[:8], latency=wrong, n_passes=3
    )
    assert not deployed.passed
    assert deployed.status == "failed"
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["deployment.json", deployed.file]
    assert ".failed." in deployed.file


def test_what_cannot_run_writes_nothing(images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(PmqError, match="cannot run"):
        pmq.deploy(make_tiny(), "w4a4", "openvino-bf16", images[24:], tmp_path / "out", calibration_images=images[:8])
    found = pmq.search(
        make_tiny(),
        images,
        "5bit",
        space=few_bits(4, 6),
        options=pmq.SearchOptions(n_rounds=1),
        split=pmq.DataSplit(n_calibration=8, n_held_out=16),
    )
    with pytest.raises(PmqError, match="cannot run"):
        pmq.deploy(make_tiny(), found.allocation, "openvino-bf16", images[24:], tmp_path / "out")
    with pytest.raises(PmqError, match="not of"):
        pmq.deploy(None, found.allocation, "openvino", images[24:, :1, :28, :28], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_that_promises_less_than_no_time_is_no_table_for_milliseconds(table: LatencyTable) -> None:
    disturbed = table.model_copy(update={"rest_ms": table.rest_ms - 1000})
    asked_for = {"space": "onnxruntime", "options": pmq.SearchOptions(latency=disturbed)}
    with pytest.raises(PmqError, match=r"predicts -.* ms for the fastest allocation.*measure again by `pmq profile`"):
        pmq.search(make_tiny(), torch.randn(24, 3, 32, 32), "latency=1ms", **asked_for)  # type: ignore[arg-type]


def test_latency_tables_are_kept_and_checked(table: LatencyTable, tmp_path: Path) -> None:
    model = make_tiny()
    path = table.save(tmp_path / "table.json")
    assert known_latency(model, "onnxruntime", tmp_path, path) == table
    with pytest.raises(PmqError, match="of model"):
        known_latency(create_model(), "onnxruntime", tmp_path, path)
    with pytest.raises(PmqError, match="of target"):
        known_latency(model, "openvino", tmp_path, path)
    elsewhere = table.model_copy(update={"fingerprint": table.fingerprint | {"processor": "another"}}).save(
        tmp_path / "else.json"
    )
    with pytest.raises(PmqError, match="measured elsewhere"):
        known_latency(model, "onnxruntime", tmp_path, elsewhere)
    assert known_latency(model, "onnxruntime", tmp_path, elsewhere, force=True).rest_ms == table.rest_ms
    with pytest.raises(PmqError, match="of threads 1, not 2"):
        pmq.deploy(model, "fp32", "onnxruntime", torch.zeros(1, 3, 32, 32), tmp_path / "out", latency=table, threads=2)
    with pytest.raises(PmqError, match="of target"):
        pmq.deploy(model, "fp32", "openvino", torch.zeros(1, 3, 32, 32), tmp_path / "out", latency=table)
    assert not (tmp_path / "out").exists()
    with pytest.raises(PmqError, match="no latency was measured; pass `target`"):
        pmq.search(model, torch.randn(24, 3, 32, 32), "latency=1ms", split=pmq.DataSplit(n_calibration=8, n_held_out=16))


def test_budgets_that_cannot_be_met_together_are_told(images: torch.Tensor) -> None:
    """Among kernels of integers and of weights alone, the least bytes and the least bit operations are of different modes."""
    file = read_space("onnxruntime")
    kernels = {name: mode for name, mode in file.modes.items() if name in ("int8", "w4", "w8", "half", "float")}
    with pytest.raises(PmqError, match="at once"):
        pmq.search(
            make_tiny(),
            images,
            "size=0.0279MB,bitops=0.0710G",
            space=file.model_copy(update={"modes": kernels}),
            split=pmq.DataSplit(n_calibration=8, n_held_out=16),
        )


def test_another_latency_from_a_run_and_its_deployment(images: torch.Tensor, table: LatencyTable, tmp_path: Path) -> None:
    model = make_tiny()
    how = {"space": "onnxruntime", "latency": table, "n_calibration": 8, "n_held_out": 16, "out": tmp_path / "run", "n_rounds": 1}
    slow = sum(max(row.values()) for row in table.layers.values()) + table.rest_ms
    pmq.search(model, images, f"latency={2 * slow:.4f}ms", **asked(**how))
    path, again = resolve(tmp_path / "run", f"latency={2 * slow:.4f}ms")
    with pytest.raises(PmqError, match="recalibrate"):
        pmq.deploy(model, again, "onnxruntime", images[24:], tmp_path / "out")
    deployed = pmq.deploy(
        model,
        pmq.Allocation.load(path),
        "onnxruntime",
        images[24:],
        tmp_path / "out",
        calibration_images=images[:8],
        recalibrate=True,
    )
    assert deployed.passed


def test_tokens_stay_left_out_when_carried_out_anew(images: torch.Tensor, table: LatencyTable, tmp_path: Path) -> None:
    how = {"space": "onnxruntime", "latency": table, "n_calibration": 8, "n_held_out": 16, "n_rounds": 1, "patches": "static"}
    map_evaluator = pmq.search(make_tiny(), images, "size=60kB", **asked(**how)).allocation
    assert map_evaluator.patches is not None
    deployed = pmq.deploy(
        make_tiny(),
        map_evaluator,
        "onnxruntime",
        images[24:],
        tmp_path,
        calibration_images=images[:8],
        recalibrate=True,
        n_passes=3,
    )
    costs = CostModel(analyse(make_tiny(), images[:1])[1])
    assert deployed.promised_bytes == costs.size_bytes(map_evaluator.assignment, map_evaluator.patches)
    assert deployed.promised_bytes != costs.size_bytes(map_evaluator.assignment)
    assert deployed.whole_latency_ms is not None
    assert {name for name, check in deployed.proof.items() if not check.passed} <= {"agreement"}
