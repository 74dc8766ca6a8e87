"""The memory limit of a process, and values that move to disk because of it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pmq.core import PmqError
from pmq.core.memory_limit import (
    limited_memory,
    memory_limit,
    parse_bytes,
    report_excess,
)
from pmq.core.shelf import Shelf


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def shelf_of(values: dict[str, torch.Tensor], limit: float | None) -> Shelf[str, torch.Tensor]:
    with limited_memory(limit):
        shelf: Shelf[str, torch.Tensor] = Shelf()
    for key, value in values.items():
        shelf[key] = value
    return shelf


@pytest.mark.parametrize(("limit", "files"), [(None, 0), (1e15, 0), (1.0, 3)])
def test_a_shelf_returns_what_was_put_there(temporary: Path, limit: float | None, files: int) -> None:
    values = {name: torch.randn(5) for name in "abc"}
    shelf = shelf_of(values, limit)
    assert shelf.on_disk == files == len(list(temporary.glob("pmq-*/*")))
    assert all(torch.equal(shelf[name], value) for name, value in values.items())
    assert list(shelf) == ["a", "b", "c"] and len(shelf) == 3 and "a" in shelf and "d" not in shelf
    shelf["b"] = torch.ones(2)
    del shelf["a"]
    shelf["d"] = torch.zeros(1)
    assert (
        torch.equal(shelf["b"], torch.ones(2))
        and torch.equal(shelf["c"], values["c"])
        and torch.equal(shelf["d"], torch.zeros(1))
    )
    for missing in ("a", "e"):
        with pytest.raises(KeyError):
            shelf[missing]
    for another in (copy.deepcopy(shelf), pickle.loads(pickle.dumps(shelf))):
        assert {name: value.tolist() for name, value in another.items()} == {n: v.tolist() for n, v in shelf.items()}
    del shelf, another
    assert not list(temporary.glob("pmq-*"))


def test_values_move_to_disk_once_the_process_holds_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [1e9]
    monkeypatch.setattr("pmq.core.shelf.resident_bytes", lambda: held[0])
    shelf = shelf_of({"a": torch.ones(1)}, 2e9)
    assert shelf.on_disk == 0
    held[0] = 1.7e9
    assert shelf["a"].item() == 1 and shelf.on_disk == 1
    held[0] = 1e9
    shelf["b"] = torch.zeros(1)
    assert shelf.on_disk == 2


def test_memory_is_measured() -> None:
    code = """
import numpy as np
from pmq.core.memory_limit import peak_bytes, resident_bytes, step_peak_bytes
step_peak_bytes()
before = resident_bytes()
block = np.ones(10**8, np.uint8)
print(*(size - before for size in (resident_bytes(), peak_bytes(), step_peak_bytes())))
"""
    # In a process of its own, as this one may have freed memory to reuse.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(9e7 < float(size) < 3e8 for size in done.stdout.split())


@pytest.mark.parametrize(("text", "size"), [("8GB", 8e9), ("500 mb", 5e8), ("1.5GB", 1.5e9), (".5kB", 500)])
def test_bytes_are_parsed(text: str, size: float) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8", "0GB", "-1GB", "8TBs", "GB", "8e9"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(PmqError, match="such as 8GB"):
        parse_bytes(text)


def test_the_limit_holds_within_its_context(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory_limit() == float("inf")
    with limited_memory(5.0), limited_memory(None):
        assert memory_limit() == 5.0
    assert memory_limit() == float("inf")
    report_excess(None)
    report_excess(1e15)
    assert not capsys.readouterr().err
    report_excess(1e6)
    assert "more than the 0.00 GB" in capsys.readouterr().err
