import pytest
import torch

from pmq.core import FLOAT, Choice, Component
from pmq.cost import CostModel, component_bytes
from pmq.cost.breakdown import cost_breakdown
from pmq.quant.weights import fit, pack, to_rows
from tests.conftest import Tiny


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (6, 3, 4, 4), (32, 33)])
def test_size_formula_equals_counted_bytes(bits: int, granularity: str, symmetric: bool, shape: tuple[int, ...]) -> None:
    size = 8 if granularity == "group" else None
    choice = Choice(
        bits=bits,
        granularity=granularity,
        group_size=size,
        symmetric=symmetric,
        estimator="minmax",
    )
    weight = torch.randn(shape)
    rows = to_rows(weight, choice)
    quantizer = fit(rows, choice)
    codes = quantizer.codes(rows).reshape(shape[0], -1)[:, : weight[0].numel()]
    stored = [pack(codes, bits), quantizer.scale.reshape(-1)]
    if not symmetric:
        zero_points = (-quantizer.low).reshape(-1)
        assert int(zero_points.min()) >= 0
        assert int(zero_points.max()) < 256
        stored.append(zero_points.to(torch.uint8))
    component = Component("m", "weight", "fc1", 0, shape)
    assert component_bytes(component, choice) == sum(t.numel() * t.element_size() for t in stored)


def test_fp32_costs_what_the_model_weighs(tiny: Tiny) -> None:
    costs = CostModel(tiny.inventory)
    fp32 = dict.fromkeys(tiny.inventory.names, FLOAT)
    assert costs.size_bytes(fp32) == sum(p.numel() * 4 for p in tiny.model.parameters())
    assert costs.bit_ops(fp32) == sum(op.macs for op in tiny.inventory.operators) * 32 * 32


def test_both_operands_of_attention_count(tiny: Tiny) -> None:
    costs = CostModel(tiny.inventory)
    base = tiny.space.uniform(4, 4)
    macs = {op.name: op.macs for op in tiny.inventory.operators}["blocks.0.attn.q@k"]
    assert macs == 17 * 17 * 32
    for name in ("q", "k"):
        raised = base | {f"blocks.0.attn.{name}": Choice(bits=8)}
        assert costs.bit_ops(raised) - costs.bit_ops(base) == macs * 4 * 4


def test_what_is_spent_adds_up(tiny: Tiny) -> None:
    costs = CostModel(tiny.inventory)
    assignment = tiny.space.uniform(4, 8)
    rows = {row["module"]: row for row in cost_breakdown(costs, assignment)}
    for name, whole in costs.costs(assignment).items():
        assert sum(row[name] for row in rows.values()) == pytest.approx(whole)
    assert rows["all else"]["bit_ops"] == pytest.approx(0, abs=1)
    assert rows["all else"]["size_bytes"] == tiny.inventory.rest_bytes
    fc1 = tiny.inventory["blocks.0.mlp.fc1.weight"]
    assert rows["blocks.0.mlp.fc1"]["bit_ops"] == 17 * fc1.numel * 4 * 8
