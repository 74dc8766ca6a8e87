from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from pmq.core import Choice, Limits, PmqError
from pmq.cost import CostModel, LatencyTable
from pmq.cost.latency import kernel_key
from pmq.graph import analyse, take_inventory, with_tensors
from pmq.metrics import SensitivityTable
from pmq.optimize import ExactSolver, Space, SpaceFile, Tables, nsga2, read_space, within
from pmq.optimize.space_file import spaces_folder
from tests.conftest import Tiny

BASE = yaml.safe_load((spaces_folder() / "default.yaml").read_text())


def space(tiny: Tiny, **changes: object) -> Space:
    return Space(SpaceFile(**(BASE | changes)), tiny.inventory)


@pytest.mark.parametrize("name", sorted(p.stem for p in spaces_folder().glob("*.yaml")))
def test_every_space_that_ships_fits_and_round_trips(name: str, tiny: Tiny) -> None:
    file = read_space(name)
    inventory = tiny.inventory if file.operators is None else take_inventory(with_tensors(tiny.model), tiny.images[:1])
    own = Space(file, inventory)
    upper_bound = own.assignment([len(d) - 1 for d in own.decisions])
    assert own.genome(upper_bound) == [len(d) - 1 for d in own.decisions]
    assert list(upper_bound) == list(inventory.names)


def test_uniform_pins_only_the_image(tiny: Tiny) -> None:
    uniform = tiny.space.uniform(4, 6)
    assert {n for n, c in uniform.items() if c.bits == 8} == {"patch_embed.proj.input"}
    assert {c.bits for n, c in uniform.items() if n.endswith(".weight")} == {4}
    assert uniform["blocks.0.attn.softmax"].bits == 6


def test_quantizers_by_bits(tiny: Tiny) -> None:
    by_bits = {c.bits: c.quantizer for c in tiny.space.choices["blocks.0.mlp.fc2.input"]}
    assert by_bits == dict.fromkeys((2, 3, 4), "codebook") | dict.fromkeys((5, 6, 7, 8), "power")
    weights = {c.bits: c.quantizer for c in tiny.space.choices["blocks.0.mlp.fc2.weight"]}
    assert weights == dict.fromkeys(range(2, 8), "palette") | {8: "affine"}
    both = space(tiny, components={"softmax": {"quantizer": ["affine", "log"], "bits": [4]}})
    assert [c.quantizer for c in both.choices["blocks.0.attn.softmax"]] == ["affine", "log"]
    assert both.uniform(4, 4)["blocks.0.attn.softmax"].quantizer == "affine"


def test_uniform_bits_may_have_another_quantizer(tiny: Tiny) -> None:
    name, convolution = "blocks.0.mlp.fc1.input", "patch_embed.proj.input"
    shipped = tiny.space
    assert {c.bits: c.quantizer for c in shipped.choices[name]} == dict.fromkeys(range(2, 8), "relative") | {8: "affine"}
    assert shipped.uniform(4, 4)[name] == Choice(bits=4, quantizer="codebook")
    assert shipped.uniform(4, 4)["blocks.0.mlp.fc2.input"].quantizer == "codebook"
    own = space(tiny, activation={"bits": [4], "quantizer": "relative", "uniform": "affine"}, pins={})
    assert own.choices[name] == (Choice(bits=4, quantizer="relative", granularity="token"),)
    assert own.choices[convolution] == (Choice(bits=4),)  # an image has no tokens
    refined = space(
        tiny, activation={"bits": [4], "quantizer": "relative", "uniform": "affine"}, components={"norm": {"quantizer": "power"}}
    )
    assert refined.uniform(4, 4)[name].quantizer == "power"
    assert refined.uniform(4, 4)["blocks.0.mlp.fc2.input"].quantizer == "affine"


def test_uniform_bits_of_other_quantizers_are_bits_of_the_space(tiny: Tiny) -> None:
    assert tiny.space.genome(tiny.space.uniform(4, 4)) is None
    assert tiny.space.has_bits(tiny.space.uniform(4, 4))
    fewer = space(tiny, components={"q": {"bits": [2, 6]}})
    assert not fewer.has_bits(fewer.uniform(4, 4))


def test_kinds_and_patterns_refine_later_wins(tiny: Tiny) -> None:
    own = space(tiny, components={"fc1": {"bits": [4]}, "blocks.1.*": {"bits": [8]}})
    assert [c.bits for c in own.choices["blocks.0.mlp.fc1.weight"]] == [4]
    assert [c.bits for c in own.choices["blocks.1.mlp.fc1.weight"]] == [8]


def test_ties_share_a_decision(tiny: Tiny) -> None:
    own = space(tiny, ties=[{"components": ["q", "k"]}, {"components": ["qkv", "proj"], "within": "model"}])
    groups = {d.components for d in own.decisions if len(d.components) > 1}
    assert ("blocks.0.attn.q", "blocks.0.attn.k") in groups
    assert sum(len(g) for g in groups) == 4 + 4
    genome = [0] * len(own.decisions)
    assignment = own.assignment(genome)
    assert assignment["blocks.0.attn.q"].bits == assignment["blocks.0.attn.k"].bits == 2
    with pytest.raises(PmqError, match="but their bits differ"):
        space(tiny, components={"q": {"bits": [4]}}, ties=[{"components": ["q", "k"]}])


def test_int8_fp32_ties_each_layer(tiny: Tiny) -> None:
    own = Space(read_space("int8_fp32"), tiny.inventory)
    assert {len(d.components) for d in own.decisions} == {2}


@pytest.mark.parametrize("key", ["components", "pins", "ties"])
def test_names_that_match_nothing_are_refused(tiny: Tiny, key: str) -> None:
    value = {"components": {"blocks.9.*": {}}, "pins": {"blocks.9.*": 8}, "ties": [{"components": ["blocks.9.*", "q"]}]}
    with pytest.raises(PmqError, match=r"blocks\.9"):
        space(tiny, **{key: value[key]})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("weigth: {}\n", "weigth"),
        ("weight: {bits: [9]}\nactivation: {bits: [4]}\nname: x\n", "bit-width 9"),
        ("weight: {bitz: [4]}\nactivation: {bits: [4]}\nname: x\n", "allowed here are bits, quantizer"),
        ("- 1\n", "no mapping"),
        ("a: [\n", "no YAML"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(PmqError) as error:
        read_space(str(path))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_space() -> None:
    with pytest.raises(PmqError, match="default, even, executorch, int8_fp32, "):
        read_space("magic")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weight": {"bits": [4], "granularity": "group"}}, "group_size"),
        ({"weight": {"bits": [4], "granularity": "channel", "group_size": 8}}, "group_size"),
        ({"weight": {"bits": [4], "quantizer": "log"}}, "weights take affine"),
        ({"activation": {"bits": [4], "granularity": "channel"}}, "activations take tensor"),
        ({"activation": {"bits": [4], "granularity": "head"}}, "is for q, k, v"),
        ({"weight": {"bits": [4], "granularity": "head"}}, "weights take"),
        ({"components": {"gelu": {"quantizer": "log"}}}, "not negative"),
        ({"components": {"v": {"quantizer": "codebook", "granularity": "head"}}}, "one table"),
        ({"weight": {"bits": [4], "quantizer": "none"}}, "none"),
        ({"weight": {"bits": [8], "quantizer": "palette"}}, "all 255 integers"),
        ({"activation": {"bits": [4], "quantizer": "palette"}}, "is for weights"),
    ],
)
def test_impossible_choices_are_told(tiny: Tiny, changes: dict, told: str) -> None:
    with pytest.raises(PmqError, match=told) as error:
        space(tiny, **changes)
    assert "\n" not in str(error.value)


def test_a_finer_entry_may_leave_groups(tiny: Tiny) -> None:
    grouped = {"bits": [4], "granularity": "group", "group_size": 8, "symmetric": True}
    own = space(tiny, weight=grouped, components={"head": {"granularity": "channel"}})
    assert own.choices["head.weight"][0].group_size is None
    assert own.choices["blocks.0.mlp.fc1.weight"][0].group_size == 8


def test_dynamic_is_a_choice_beside_others_and_costs_bit_operations(tiny: Tiny) -> None:
    own = space(tiny, components={"norm": {"quantizer": ["affine", "dynamic"]}})
    name = "blocks.0.mlp.fc1.input"
    found = own.choices[name]
    assert {c.granularity for c in found if c.quantizer == "dynamic"} == {"token"}
    assert len(found) == 2 * len({c.bits for c in found})
    costs = CostModel(tiny.inventory)
    assignment = {n: next((c for c in choices if c.bits == 4), choices[-1]) for n, choices in own.choices.items()}
    plain, dynamic = (assignment | {name: c} for c in found if c.bits == 4)
    assert (plain[name].quantizer, dynamic[name].quantizer) == ("affine", "dynamic")
    assert costs.bit_ops(dynamic) - costs.bit_ops(plain) == 64 * tiny.inventory[name].numel
    assert costs.size_bytes(dynamic) < costs.size_bytes(plain)
    tables = Tables.build(own, SensitivityTable.zeros(own.choices))
    for each in (plain, dynamic):
        genome = own.genome(each)
        assert genome is not None
        assert tables.evaluate(np.array([genome]))[0, 2] == costs.bit_ops(each)
    limits = Limits(bit_ops=float(costs.bit_ops(plain)))
    solved = ExactSolver(tables).solve(limits)
    assert solved is not None
    assert tables.evaluate(solved[None])[0, 2] <= limits.bit_ops


def test_modes_decide_weight_and_input_of_a_layer_together(tiny: Tiny) -> None:
    own = Space(read_space("onnxruntime"), tiny.inventory)
    layers = [d for d in own.decisions if len(d.components) == 2]
    assert [d.components[0].removesuffix(".weight") for d in layers] == [
        op.name for op in tiny.inventory.operators if "@" not in op.name
    ]
    pairs = list(zip(*layers[1].choices, strict=True))
    assert [(w.label, a.label) for w, a in pairs] == [
        *((f"{bits}-palette", "8") for bits in (2, 3, 4, 5, 6)),
        ("8", "8"),
        ("4", "fp32"),
        ("8", "fp32"),
        ("16-half", "fp32"),
        ("fp32", "fp32"),
    ]
    assert all(c.is_fp32 for name, row in own.choices.items() for c in row if name.endswith((".q", ".k", ".v", ".softmax")))
    modes = own.uniform_modes()
    assert set(modes) == {"int8", "w6a8", "w5a8", "w4a8", "w3a8", "w2a8", "w4", "w8", "half", "float"}
    assert own.genome(own.uniform(8, 8)) == modes["int8"]
    tables, costs = Tables.build(own, SensitivityTable.zeros(own.choices)), CostModel(tiny.inventory)
    for genome in modes.values():
        assignment = own.assignment(genome)
        _, size, ops = tables.evaluate(np.array([genome]))[0]
        assert (size, ops) == (costs.size_bytes(assignment), costs.bit_ops(assignment))


def test_modes_that_do_not_fit_are_told(tiny: Tiny) -> None:
    file = read_space("onnxruntime").model_dump(exclude_none=True)
    with pytest.raises(PmqError, match="has no mode left"):
        Space(SpaceFile.model_validate(file | {"pins": file["pins"] | {"head": 7}}), tiny.inventory)
    with pytest.raises(PmqError, match="whose layer has modes"):
        Space(SpaceFile.model_validate(file | {"ties": [{"components": ["fc1", "fc2"], "within": "block"}]}), tiny.inventory)
    pinned = Space(SpaceFile.model_validate(file | {"pins": file["pins"] | {"head": 32}}), tiny.inventory)
    assert [c.bits for c in pinned.choices["head.weight"]] == [32]
    only = {"fast": {"weight": {"bits": 8, "symmetric": True}, "input": {"bits": 8}, "excepted": ["head"]}, "float": {}}
    some = Space(SpaceFile.model_validate(file | {"modes": only}), tiny.inventory)
    assert [c.bits for c in some.choices["head.weight"]] == [32]


def test_measured_milliseconds_are_a_cost_to_keep_to(tiny: Tiny) -> None:
    file = read_space("onnxruntime")
    plain = Space(file, tiny.inventory)
    layers: dict[str, dict[str, float]] = {}
    for decision in plain.decisions:
        if len(decision.components) == 2:
            name = decision.components[0].removesuffix(".weight")
            keys = dict.fromkeys(kernel_key(w, a) for w, a in zip(*decision.choices, strict=True))
            layers[name] = {key: 1.0 + 0.25 * k for k, key in enumerate(keys)}
    table = LatencyTable(target="t", model="m", batch_size=1, threads=1, fingerprint={"cpu": "x"}, layers=layers, rest_ms=5.0)
    own = Space(file, tiny.inventory, latency=table)
    tables = Tables.build(own, SensitivityTable("zeros", {n: {c: 1.0 / c.bits for c in row} for n, row in own.choices.items()}))
    fastest, slowest = tables.lower_bound()[2], tables.upper_bound()[2]
    assert (fastest, slowest) == (5 + len(layers), 5 + sum(max(row.values()) for row in layers.values()))
    limits = Limits(latency_ms=0.5 * (fastest + slowest))
    genome = ExactSolver(tables).solve(limits)
    assert genome is not None
    costs = tables.evaluate(genome[None])[0]
    assert fastest < costs[3] <= limits.latency_ms
    assert costs[3] == table.latency_ms(own.assignment(genome))
    seen = nsga2(tables, limits, genome[None], generations=5, population=20)
    assert within(limits, tables.evaluate(seen)).any()
    with pytest.raises(PmqError, match="was not profiled"):
        table.latency_ms(own.assignment(genome) | {"head.weight": Choice(bits=16, quantizer="bfloat16")})
    with pytest.raises(PmqError, match="measured elsewhere"):
        table.check({"cpu": "y"})
    table.check({"cpu": "y"}, force=True)


def shares(shared: bool) -> Space:
    class Separate(nn.Module):
        """An attention whose queries, keys and values are made by layers of their own."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.head = (nn.Linear(12, 12) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(2).relu().mT.repeat(1, 1, 4)
            q, k, v = self.q(x), self.k(x), self.v(x)
            return self.head(((q @ k.mT).softmax(-1) @ v).mean(1))

    _, inventory = analyse(Separate().eval(), torch.zeros(1, 3, 8, 8))
    return Space(SpaceFile(**(read_space("default").model_dump() | {"shared": shared})), inventory)


def test_a_tensor_that_several_operators_read_has_one_choice() -> None:
    space = shares(True)
    assert ("q.input", "k.input", "v.input") in {d.components for d in space.decisions}
    apart = shares(False)
    assert len(apart.decisions) == len(space.decisions) + 2
    assert all(len(d.components) == 1 for d in apart.decisions)
