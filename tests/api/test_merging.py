"""Tokens that are merged by an allocation: searched with its bits, simulated, deployed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pmq
from pmq.core.errors import PmqError
from pmq.cost import LatencyTable
from pmq.cost.latency import PLAIN
from pmq.graph import analyse, captured, take_inventory
from pmq.graph.token_merging import merge_tokens
from pmq.runtimes import TARGETS
from pmq.runtimes.merge_latency import relative_latency
from tests.conftest import make_tiny

IMAGES = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.usefixtures("shallow")
OPTIONS = pmq.SearchOptions(recipe="fast", merge=True, n_rounds=1, max_evals=4)


def test_a_search_merges_tokens_and_its_file_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = make_tiny()
    whole = analyse(model, IMAGES[:1])[1]
    most = 8 * 8 * sum(op.macs for op in whole.operators)
    budget, run = f"bitops={0.95 * most / 1e6:.3f}M", tmp_path / "run"
    found = pmq.search(model, IMAGES, budget, space="onnxruntime", options=OPTIONS, split=pmq.DataSplit(8, 16), out=run)
    merging = found.allocation.merging
    assert merging is not None and merging.prefix == 1  # only fewer tokens cost less than all layers at their fewest bits
    assert found.allocation.budget is not None and found.allocation.budget.achieved["bit_ops"] <= 0.95 * most
    loaded = pmq.Allocation.load(run / "allocations" / "chosen.json")
    assert loaded.merging == merging
    table = pmq.evaluate(model, loaded, [(IMAGES, None)])
    torch.testing.assert_close(pmq.simulate(model, loaded)(IMAGES), pmq.simulate(model, found.allocation)(IMAGES))
    assert table["bit_ops"][0] == found.allocation.budget.achieved["bit_ops"]
    deployment = pmq.deploy(model, loaded, "onnxruntime", IMAGES, tmp_path / "file", n_passes=3)
    assert deployment.status == "proved" and deployment.whole_latency_ms is not None
    assert pmq.resolve(run, "w8a8")[1].merging == merging
    resumed = pmq.RunOptions(resume=True)
    split = pmq.DataSplit(8, 16)
    again = pmq.search(model, IMAGES, budget, space="onnxruntime", options=OPTIONS, split=split, out=run, run=resumed)
    assert again.allocation.merging == merging


def test_merging_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(PmqError, match="tokens are merged to meet a cost, not an agreement"):
        pmq.search(make_tiny(), IMAGES, "agreement>=99", options=OPTIONS)


def test_milliseconds_of_merged_models_are_measured_relative_to_all_tokens() -> None:
    pytest.importorskip("onnxruntime")
    model = captured(make_tiny(), IMAGES[:1])
    inventory = take_inventory(model, IMAGES[:1])
    merged = merge_tokens(model, {"blocks.0": 8}, 1)
    models = {"whole": (model, inventory), "merged": (merged, take_inventory(merged, IMAGES[:1]))}
    modes = {name: [] for name in ("blocks.0.mlp.fc1", "blocks.1.mlp.fc1")}
    ratios = relative_latency(TARGETS["onnxruntime"], models, modes, PLAIN, (3, 32, 32))
    assert ratios["whole"] == 1.0 and 0.2 < ratios["merged"] < 5


def test_a_table_of_fewer_tokens_adds_up_to_the_measured_milliseconds() -> None:
    layers = {"a": {PLAIN: 4.0, "w8 x 8": 2.0}, "b": {PLAIN: 2.0, "w8 x 8": 1.0}}
    table = LatencyTable(target="t", model="m", batch_size=1, threads=1, fingerprint={}, layers=layers, rest_ms=1.0)
    assert table.fastest_key == "w8 x 8"
    fewer = table.with_fewer_tokens({"a": 1.0, "b": 0.5}, "w8 x 8", 3.0)
    assert fewer.whole_ms({"a": "w8 x 8", "b": "w8 x 8"}) == pytest.approx(3.0)
    assert fewer.layers["b"][PLAIN] == 1.0 and fewer.layers["a"] == layers["a"]
