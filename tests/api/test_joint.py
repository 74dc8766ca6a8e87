"""Widths searched beside bits."""

from __future__ import annotations

import copy
from pathlib import Path

import pandas as pd
import pytest
import torch

import pmq
from pmq.api import resolve
from pmq.core import Allocation, PmqError
from pmq.core.choice import WidthChoice
from pmq.core.recipe import find_recipe
from pmq.core.rundir import CHOSEN
from pmq.cost import CostModel, LatencyTable
from pmq.graph import analyse
from pmq.metrics import SensitivityTable
from pmq.optimize import Space, Tables, read_space
from pmq.pipeline.search.width_masks import WidthMasks
from pmq.pipeline.search.width_options import Shapes, groups_of
from pmq.pipeline.search.width_search import Joint
from pmq.pipeline.subject import Subject
from pmq.runtimes import TARGETS
from pmq.runtimes.width_latency import WidthBench
from tests.asked import asked
from tests.conftest import make_tiny

pytestmark = pytest.mark.usefixtures("shallow")
OPTIONS = {"n_calibration": 16, "n_held_out": 24, "n_rounds": 1, "max_evals": 6, "prune": True}


@pytest.fixture(scope="module")
def joint(images: torch.Tensor) -> Joint:
    return Joint(Subject.of(make_tiny(), "cpu", images[:1]), images[:16], find_recipe("best"), 0)


@pytest.fixture(scope="module")
def found(images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> pmq.api.SearchResult:
    return pmq.search(make_tiny(), images, "0.12x", out=tmp_path_factory.mktemp("joint") / "run", **asked(**OPTIONS))


def test_widths_go_from_least_to_all_and_hold_whole_heads(joint: Joint) -> None:
    options = {w.name: w.options for w in joint.widths}
    assert set(options) == {"blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"}
    for of in options.values():
        assert [unit.share for unit in of] == sorted(unit.share for unit in of)
        assert of[-1].share == 1
    assert {unit.kept_heads for unit in options["blocks.0.attn"]} == {1, 2}
    assert len({unit.kept for unit in options["blocks.0.mlp"]}) == len(options["blocks.0.mlp"]) > 5


def test_what_is_spent_adds_up(found: pmq.api.SearchResult) -> None:
    assert found.run is not None and found.allocation.budget is not None
    rows = pd.read_csv(found.run / "spent.csv")
    for name, whole in found.allocation.budget.achieved.items():
        assert rows[name].sum() == pytest.approx(whole)
    assert rows["bit_ops"].iloc[-1] == pytest.approx(0, abs=1)


def test_widths_fill_groups_where_a_target_needs_them(images: torch.Tensor) -> None:
    assert groups_of(read_space("openvino"), "openvino") == 32
    assert groups_of(read_space("onnxruntime"), "onnxruntime") == groups_of(read_space("default"), None) == 1
    shapes = list(Shapes(Subject.of(make_tiny(), "cpu", images[:1]), 32).alike())
    kept = {len(unit.indices) for shape in shapes for unit in shape.widths.values()}
    assert kept == {32, 64, 96}  # of MLPs: no part of 32 channels of attention fills a group
    pruned = pmq.prune(make_tiny(), images[:16], 0.3, structures=("hidden",), round_to=8, importance="magnitude")
    model = pmq.pipeline.pruned_model.load_pruned(pruned.allocation, make_tiny())
    with pytest.raises(PmqError, match="which 88 inputs do not fill"):
        pmq.deploy(model, "w4a32", "openvino", images, "nowhere", calibration_images=images[:8])


@torch.no_grad()
def test_what_is_simulated_is_near_what_is_built(joint: Joint, images: torch.Tensor) -> None:
    """Zeros in place of channels, against the model really pruned; both recovered, in FP32."""
    prepared = joint.prepared(0)
    widths = {w.name: WidthChoice(unit=w.options[-2]) for w in joint.widths}
    with prepared.simulator(WidthMasks(prepared, joint.widths)) as simulator:
        simulator.apply({})
        exact = simulator.run(images).log_softmax(-1)
        simulator.apply(widths)
        simulated = simulator.run(images).log_softmax(-1)
        simulator.apply({})
        assert torch.equal(simulator.run(images).log_softmax(-1), exact)
    subject, ready = joint.built(widths)
    built = subject.model(images).log_softmax(-1)
    assert (ready.model(images).log_softmax(-1) - built).abs().max() < 1e-2  # rewritten exactly

    def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
        return float((p.exp() * (p - q)).sum(-1).mean())

    lost = divergence(exact, built)
    assert divergence(simulated, built) < 0.5 * lost
    assert 0.5 * lost < divergence(exact, simulated) < 3 * lost


def test_cuts_do_not_depend_on_what_was_simulated_before(joint: Joint, images: torch.Tensor) -> None:
    prepared, last = joint.prepared(0), joint.widths[1]
    width = {last.name: WidthChoice(unit=last.options[1])}
    found = []
    for before in ({}, Space(read_space("default"), prepared.inventory, "fisher").uniform(2, 8)):
        with prepared.simulator(WidthMasks(prepared, joint.widths)) as simulator:
            simulator.apply(before)
            simulator.apply(width)
            found.append(simulator.run(images))
    assert torch.equal(*found)


def test_a_joint_search_meets_its_budget_with_a_pruned_model(found: pmq.api.SearchResult, images: torch.Tensor) -> None:
    allocation = Allocation.load(found.run / CHOSEN)
    plan, achieved = allocation.pruning, allocation.budget.achieved
    assert plan is not None
    assert plan.ranked
    assert plan.recovered
    assert any(unit.share < 1 for unit in plan.units.values())
    assert achieved["size_bytes"] <= found.limits.size_bytes * 1.01
    shape = pmq.simulate(make_tiny(), allocation)
    _, inventory = analyse(pmq.pipeline.pruned_model.pruned_copy(make_tiny(), plan, None, True), images[:1])
    assert achieved["size_bytes"] == CostModel(inventory).size_bytes(allocation.assignment)
    assert shape(images[:2]).shape == (2, 7)
    rows = pd.read_csv(found.run / "widths.csv")
    assert set(rows["unit"]) == set(plan.units)
    assert (rows["error"] >= 0).all()
    (kl,) = pmq.evaluate(make_tiny(), allocation, [images[16:]])["kl"]
    assert kl == pytest.approx(allocation.metrics["kl"], rel=0.05)


def test_its_tables_follow_the_widths(found: pmq.api.SearchResult, joint: Joint) -> None:
    """What widths make cheaper is known in advance; a search finds points cheaper than any bits alone are."""
    inventory = analyse(make_tiny(), torch.zeros(1, 3, 32, 32))[1]
    bits_alone, both = (Space(read_space("default"), inventory, widths=widths) for widths in ((), joint.widths))
    sensitivity = SensitivityTable.zeros(bits_alone.choices)
    for widths in joint.widths:
        for unit in widths.options:
            sensitivity.put(widths.name, WidthChoice(unit=unit), 0.0)
    least_alone, least = (Tables.build(space, sensitivity).lower_bound() for space in (bits_alone, both))
    assert least[0] < 0.8 * least_alone[0]
    assert least[1] < 0.8 * least_alone[1]
    points = found.points[found.points["genome_id"] >= 0]
    assert points["front"].sum() > 5
    assert least[1] <= points["bit_ops"].min() < least_alone[1]
    assert least[0] <= points["size_bytes"].min() < least_alone[0]


def test_what_it_cannot_do_is_told(found: pmq.api.SearchResult, images: torch.Tensor) -> None:
    with pytest.raises(PmqError, match="searched widths as well"):
        resolve(found.run, "6bit")
    with pytest.raises(PmqError, match="uses no gradients"):
        pmq.search(make_tiny(), images, "4bit", **asked(**OPTIONS, recipe="mse"))
    pruned = pmq.pipeline.pruned_model.load_pruned(pmq.prune(make_tiny(), images[:16], 0.25).allocation, make_tiny())
    with pytest.raises(PmqError, match="pruned already"):
        pmq.search(pruned, images, "4bit", **asked(**OPTIONS))


def test_widths_are_timed_and_predicted(images: torch.Tensor, tmp_path: Path, table: LatencyTable) -> None:
    subject = Subject.of(make_tiny(), "cpu", images[:1])
    modes = Space(read_space("onnxruntime"), subject.inventory).modes
    shapes, runtime = Shapes(subject), TARGETS["onnxruntime"]
    bench = WidthBench(runtime, shapes.whole, modes, (3, 32, 32), rounds=3)
    alike = list(shapes.alike())
    timed = table.model_copy(update={"units": bench.saved(alike[:2] + alike[-1:])})
    labels = {WidthChoice(unit=u).label for shape in alike[:2] for name, u in shape.widths.items() if name.endswith("attn")}
    assert set(timed.units["blocks.0.attn"]) == labels
    assert set(timed.units["blocks.0.mlp"]["112/128"]) == set(bench.keys)
    mixed = [copy.copy(alike[0]), alike[-1]]
    corrected = bench.updated(timed, mixed)
    assert corrected.margin >= table.margin
    assert corrected.units.keys() == timed.units.keys()
    with pytest.raises(PmqError, match=r"profile (again )?with `prune`"):
        pmq.search(make_tiny(), images, "latency=1ms", space="onnxruntime", **asked(**OPTIONS, latency=table))
