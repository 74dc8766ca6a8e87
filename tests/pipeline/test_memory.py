"""A search and a sensitivity table with a memory limit are those without one; what can be kept on disk is kept there."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import pmq
from pmq.core import shelf
from tests.conftest import make_tiny
from tests.shallow import few_bits

pytestmark = pytest.mark.usefixtures("shallow")
IMAGES = torch.randn(28, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Keys of the values that were written to disk."""
    keys: list[object] = []
    write = shelf.Shelf._write

    def counting(self: shelf.Shelf[object, object], key: object, value: object) -> None:
        keys.append(key)
        write(self, key, value)

    monkeypatch.setattr(shelf.Shelf, "_write", counting)
    return keys


@pytest.mark.parametrize("prune", [False, True])
def test_a_search_with_a_limit(tmp_path: Path, written: list[object], capsys: pytest.CaptureFixture[str], prune: bool) -> None:
    options, split = pmq.SearchOptions(n_rounds=2, prune=prune), pmq.DataSplit(n_calibration=8, n_held_out=20)
    for name, limit in (("plain", None), ("limited", 1e6)):
        assert not written
        run = pmq.RunOptions(memory=limit)
        pmq.search(make_tiny(), IMAGES, "5bit", space=few_bits(4, 8), out=tmp_path / name, options=options, split=split, run=run)
    assert written
    for name in ("sensitivity.csv", "front.csv", "points.csv", "allocations/chosen.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "limited" / name).read_bytes()
    assert json.loads((tmp_path / "limited" / "manifest.json").read_text())["peak_bytes"] > 1e8
    told = [line for line in capsys.readouterr().err.splitlines() if "GB of memory were held" in line]
    assert len(told) == 1 and "more than the 0.00 GB asked for" in told[0]


def test_a_sensitivity_table_with_a_limit(written: list[object]) -> None:
    tables = [
        pmq.sensitivity(
            make_tiny(), IMAGES[:8], ("fisher_shrunk",), space=few_bits(4, 8), recipe="best", memory=limit, n_calibration=4
        )
        for limit in (None, 1e6)
    ]
    assert written
    pd.testing.assert_frame_equal(*tables)
