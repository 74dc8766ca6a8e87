"""Bits of patches on the command line, on the embedded default."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pmq.core import Allocation
from tests.conftest import pmq


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_bits_of_patches_gain_at_equal_bit_operations(kind: str, run: Path, tmp_path: Path) -> None:
    file, start = tmp_path / f"{kind}.json", time.monotonic()
    found = pmq("patches", str(run), "--kind", kind, "--out", str(file), "--json")
    assert found.returncode == 0, found.stderr
    assert time.monotonic() - start < 60  # pictures and all; half of that on an idle machine
    assert json.loads(found.stdout)["simulated"]
    assert (tmp_path / f"{kind}-plots" / "patches-layers.png").is_file()
    before = Allocation.load(run / "allocations" / "chosen.json")
    assert before.budget is not None
    assert json.loads(found.stdout)["bit_ops"] <= before.budget.achieved["bit_ops"] * (1 + 1e-9)
    compared = pmq("evaluate", f"{run},{file}", "--limit", "1000", "--json")
    plain, patched = json.loads(compared.stdout)["results"]
    assert patched["kl"] < plain["kl"]
    assert (plain["patches"], patched["patches"]) == (None, f"{kind}, simulated")
    assert patched["bit_ops"] <= plain["bit_ops"] * (1 + 1e-9)


def test_bits_of_patches_of_a_file_that_lies_in_no_run(run: Path, tmp_path: Path) -> None:
    before = Allocation.load(run / "allocations" / "chosen.json")
    own = before.save(tmp_path / "elsewhere.json")
    again = pmq("patches", own.name, "--share", "0.9", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert before.budget is not None
    assert json.loads(again.stdout)["bit_ops"] <= 0.9 * before.budget.achieved["bit_ops"]
    told = pmq("patches", "w4a4")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
