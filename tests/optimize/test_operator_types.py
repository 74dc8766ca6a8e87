import numpy as np
import pytest

from pmq.core import Limits, PmqError
from pmq.core.component import Inventory
from pmq.cost import CostModel
from pmq.graph import take_inventory, with_tensors
from pmq.metrics import SensitivityTable
from pmq.optimize import ExactSolver, Space, SpaceFile, Tables, nsga2, read_space, within
from pmq.optimize.constraints import Constraints
from tests.conftest import Tiny


@pytest.fixture
def inventory(tiny: Tiny) -> Inventory:
    return take_inventory(with_tensors(tiny.model), tiny.images[:1])


def changed(**operators: object) -> SpaceFile:
    file = read_space("qdq")
    assert file.operators is not None
    return SpaceFile(**(file.model_dump() | {"operators": file.operators.model_dump() | operators}))


def test_no_genome_has_widths_that_an_operator_does_not_take(inventory: Inventory) -> None:
    file = read_space("qdq")
    space, rng = Space(file, inventory), np.random.default_rng(0)
    assert file.operators is not None
    for _ in range(50):
        assignment = space.assignment([rng.integers(len(d)) for d in space.decisions])
        assert file.operators.why_not_taken(assignment, inventory) is None
    for bits in ((8, 8), (8, 16), (4, 8), (4, 16)):
        uniform = space.uniform(*bits)
        assert file.operators.why_not_taken(uniform, inventory) is None
        assert space.genome(uniform) is not None
    wrong = space.uniform(8, 8) | {"blocks.0.attn.proj.tensor": space.uniform(8, 16)["blocks.0.attn.proj.tensor"]}
    assert "'blocks.0.attn.proj' at 8 x 8 bits with a result of 16 bits" in str(file.operators.why_not_taken(wrong, inventory))
    assert space.genome(wrong) is None


def test_products_of_two_wide_operands_are_left_out_where_the_target_has_none(inventory: Inventory) -> None:
    space = Space(changed(product=[(8, 8, 8), (16, 8, 16)]), inventory)
    for decision in space.decisions:
        for k in range(len(decision)):
            options = decision.options(k)
            assert not options.keys() >= {"blocks.0.attn.qkv.tensor"} or options["blocks.0.attn.qkv.tensor"].bits == 8  # type: ignore[union-attr]


def test_solvers_stay_within_budgets_and_what_operators_take(inventory: Inventory) -> None:
    file = read_space("qdq")
    space, rng = Space(file, inventory), np.random.default_rng(1)
    table = SensitivityTable("random")
    for name, row in space.choices.items():
        for choice in row:
            table.put(name, choice, float(rng.uniform(0, 1)) * (1 if choice.bits == 8 else 0.01 if choice.bits == 16 else 3))
    tables = Tables.build(space, table)
    low, high = tables.lower_bound()[1], tables.upper_bound()[1]
    limits = Limits(bit_ops=0.7 * low + 0.3 * high)
    best = ExactSolver(tables).solve(limits)
    assert best is not None
    cost = tables.evaluate(best[None])[0]
    assert cost[2] <= limits.bit_ops
    assert file.operators is not None
    assert file.operators.why_not_taken(space.assignment(best), inventory) is None
    evolved = tables.evaluate(nsga2(tables, limits, best[None], generations=5, seed=0))
    assert min(evolved[within(limits, evolved), 0]) >= cost[0] * (1 - 2e-3)


@pytest.mark.parametrize("min_bits", [None, 8])
def test_tables_cost_what_allocations_cost(min_bits: int | None, inventory: Inventory) -> None:
    space = Space(Constraints(min_bits=min_bits).applied(read_space("qdq"), inventory), inventory)
    tables, costs = Tables.build(space, SensitivityTable.zeros(space.choices)), CostModel(inventory)
    rng = np.random.default_rng(2)
    for _ in range(20):
        genome = np.array([rng.integers(len(d)) for d in space.decisions])
        expected = costs.costs(space.assignment(genome))
        assert tables.evaluate(genome[None])[0, 1:].tolist() == pytest.approx(list(expected.values()))


def test_what_leaves_nothing_is_told(inventory: Inventory, tiny: Tiny) -> None:
    file = read_space("qdq")
    with pytest.raises(PmqError, match=r"no bits of .*head.*relax its pins"):
        Space(file.model_copy(update={"pins": file.pins | {"norm.tensor": 8, "head.tensor": 16}}), inventory)
    with pytest.raises(PmqError, match="has operators, but this model's tensors"):
        Space(file, tiny.inventory)
    with pytest.raises(PmqError, match="excludes modes and ties"):
        Space(file.model_copy(update={"modes": read_space("onnxruntime").modes}), inventory)
