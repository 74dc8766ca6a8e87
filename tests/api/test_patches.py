"""Tokens that files leave out, and maps within a search."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pmq
from pmq.core import Allocation, PmqError
from pmq.core.patches import PatchMap, TokenBits
from pmq.cost import LatencyTable
from pmq.graph import analyse
from pmq.optimize import Space
from pmq.pipeline.search.budget import resolve_budget
from tests.asked import asked
from tests.conftest import make_tiny
from tests.shallow import few_bits

pytestmark = pytest.mark.usefixtures("shallow")
SKIPPED = {f"blocks.1.{leaf}" for leaf in ("attn.q", "attn.softmax", "attn.proj.input", "mlp.fc1.input", "mlp.fc2.input")}
FEW = few_bits(2, 4, 6)


@pytest.fixture(scope="module")
def searched(images: torch.Tensor, table: LatencyTable, tmp_path_factory: pytest.TempPathFactory) -> pmq.search:  # type: ignore[valid-type]
    out = tmp_path_factory.mktemp("run") / "run"
    given = {"space": "onnxruntime", "latency": table, "n_calibration": 8, "n_held_out": 16, "max_evals": 6, "patches": "static"}
    return pmq.search(make_tiny(), images, "size=60kB", out=out, **asked(**given))


def test_a_runtimes_map_leaves_out_what_nothing_reads(searched: pmq.api.SearchResult, table: LatencyTable) -> None:
    found, before = searched.allocation, searched.without_patches
    assert before is not None
    assert found.patches is not None
    left_out = {name for name, tokens in found.patches.components.items() if "0" in tokens.bits}
    assert left_out == SKIPPED
    assert all(found.patches.components[name].kept == [0] for name in left_out)
    assert not found.patches.simulated
    assert found.budget.achieved["latency_ms"] < before.budget.achieved["latency_ms"]
    assert found.budget.achieved["bit_ops"] < before.budget.achieved["bit_ops"]
    assert found.budget.achieved["size_bytes"] <= 60_000
    assert searched.run is not None
    assert Allocation.load(searched.run / "allocations" / "without-patches.json").patches is None
    assert {"patches-layers.png", "patches-images.png", "patches-mean.csv"} <= {
        p.name for p in (searched.run / "plots").iterdir()
    }


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_files_leave_out_tokens_and_compute_the_same(
    target: str, searched: pmq.api.SearchResult, images: torch.Tensor, tmp_path: Path
) -> None:
    pytest.importorskip(target)
    whole = pmq.deploy(make_tiny(), searched.without_patches, target, images[24:], tmp_path / "whole", n_passes=3)
    found = pmq.deploy(make_tiny(), searched.allocation, target, images[24:], tmp_path / "less", n_passes=3)
    assert set(found.proof) == set(whole.proof)
    assert found.proof["layers"].passed
    assert found.proof["size"].passed
    assert whole.whole_latency_ms is None
    assert found.whole_latency_ms is not None
    sessions = [pmq.runtimes.TARGETS[target].session(tmp_path / f / d.file) for f, d in (("whole", whole), ("less", found))]
    for image in images[24:28].split(1):
        one, two = (torch.from_numpy(session(image.numpy())) for session in sessions)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_fewer_tokens_are_computed_for_fewer_bit_operations(searched: pmq.api.SearchResult, images: torch.Tensor) -> None:
    before = searched.without_patches
    found = pmq.reallocate(make_tiny(), before, images, share=0.6)
    assert found.budget.achieved["bit_ops"] <= 0.6 * before.budget.achieved["bit_ops"] * (1 + 1e-9)
    assert sum("0" in tokens.bits for tokens in found.patches.components.values()) > len(SKIPPED)
    simulated = pmq.simulate(make_tiny(), found)
    with torch.no_grad():
        assert torch.isfinite(simulated(images[:2])).all()
    with pytest.raises(PmqError, match="cheapest bits"):
        pmq.reallocate(make_tiny(), before, images, share=0.01)
    with pytest.raises(PmqError, match="fixed positions"):
        pmq.reallocate(make_tiny(), before, images, "dynamic")


def test_maps_that_no_file_can_hold_are_refused(searched: pmq.api.SearchResult, images: torch.Tensor, tmp_path: Path) -> None:
    before = searched.without_patches
    for name, match in (("blocks.0.mlp.fc1.input", "different tokens"), ("blocks.0.attn.qkv.input", "cannot be skipped")):
        own = TokenBits.of([0] + [before.components[name].bits] * 16)
        wrong = before.model_copy(update={"patches": PatchMap(kind="static", components={name: own})})
        with pytest.raises(PmqError, match=match):
            pmq.deploy(make_tiny(), wrong, "onnxruntime", images[24:], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_search_keeps_its_budget_with_the_map(kind: str, images: torch.Tensor) -> None:
    found = pmq.search(
        make_tiny(),
        images,
        "4bit",
        space=FEW,
        options=pmq.SearchOptions(max_evals=6, patches=kind),
        split=pmq.DataSplit(n_calibration=8, n_held_out=16),
    )
    limits, achieved = found.allocation.budget.limits, found.allocation.budget.achieved
    assert found.allocation.patches.kind == kind
    assert found.allocation.patches.simulated
    assert achieved["bit_ops"] <= limits["bit_ops"]
    space = Space(FEW, analyse(make_tiny(), images[:1])[1])
    assert achieved["size_bytes"] <= resolve_budget(pmq.Budget.parse("4bit"), space).size_bytes
    assert found.without_patches is not None
    with pytest.raises(PmqError, match="kind 'both'"):
        pmq.search(
            make_tiny(),
            images,
            "4bit",
            options=pmq.SearchOptions(patches="both"),
            split=pmq.DataSplit(n_calibration=8, n_held_out=16),
        )
