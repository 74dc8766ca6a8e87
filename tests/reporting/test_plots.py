from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import pmq
from pmq.core import PmqError
from pmq.reporting import RunData
from pmq.reporting.heatmap import bits_table
from tests.conftest import make_tiny

pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    pmq.search(make_tiny(), images, "4bit", out=out, split=pmq.DataSplit(n_calibration=8, n_held_out=16))
    return out


def test_figures_with_their_data(run: Path) -> None:
    paths = pmq.plot(run)
    assert {p.name for p in paths} == {
        f"{n}.{s}" for n in ("pareto", "sensitivity", "bits", "spent", "rounds") for s in ("png", "svg", "csv")
    }
    assert all(p.stat().st_size > 200 for p in paths)
    data = pd.read_csv(run / "plots" / "pareto.csv")
    assert data["chosen"].sum() == 1
    assert {"uniform w8a8", "uniform w6a6", "uniform w4a4", "fp32"} <= set(data["source"])


def test_heat_map_shows_the_allocation(run: Path) -> None:
    data = RunData(run)
    table = bits_table(data)
    assert dict(zip(table["component"], table["bits"], strict=True)) == {n: c.bits for n, c in data.allocation.components.items()}
    assert {"qkv.weight", "qkv.input", "q", "k", "softmax", "v", "fc2.input"} <= set(table["part"])


def test_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(PmqError, match="no run directory"):
        pmq.plot(tmp_path)
