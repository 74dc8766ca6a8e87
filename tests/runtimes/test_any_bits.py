"""Allocations with any bits as ONNX files: packed weights, few bits of inputs, and quantized operands of attention."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import pmq
from pmq.core import Assignment, Choice, Inventory, PmqError
from pmq.core.recipe import find_recipe
from pmq.graph import analyse, take_inventory
from pmq.optimize import Space, read_space
from pmq.quant import build_quantized_model, prepare, quantize, restore
from pmq.runtimes import TARGETS
from pmq.runtimes.labels import TARGET
from pmq.runtimes.layer import deploy_layers
from pmq.runtimes.operand import deploy_operands, mark_operands
from pmq.runtimes.proof import bits_check, layer_errors, layers_check, operand_errors, operands_check, outputs_of
from tests.conftest import Tiny
from tests.runtimes.test_targets import Convolving


def proved(target: str, model: Any, images: torch.Tensor, assignment: Assignment, file: Path) -> onnx.ModelProto:
    """Write a file with an assignment's bits, check it in every way, and return it."""
    runtime, inventory = TARGETS[target], take_inventory(model, images[:1])
    runtime.check(assignment, inventory)
    quantized = quantize(prepare(copy.deepcopy(model), inventory, images, find_recipe("minmax"), 0), assignment)
    restored = copy.deepcopy(model)
    layers = deploy_layers(restored, inventory, quantized, restore(restored, quantized))
    operands = deploy_operands(inventory, quantized)
    mark_operands(restored, operands)
    skeleton = runtime.skeleton(restored, [layer.name for layer in layers], images[:1])
    runtime.save(runtime.build(skeleton, layers, operands), file, {TARGET: target})
    simulator = build_quantized_model(copy.deepcopy(model), inventory, quantized)
    errors = layer_errors(runtime, layers, simulator, images[:1])
    assert layers_check(errors).passed, errors
    if operands:
        shares = operand_errors(runtime, operands, simulator, images[:1])
        assert operands_check(shares).passed, shares
    stored = runtime.stored(file)
    assert bits_check(stored, assignment, inventory).passed, stored
    found = outputs_of(runtime.session(file), images)
    with torch.no_grad():
        wanted = simulator.model(images)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05
    return onnx.load(file)


def uniform(space: str, inventory: Inventory, weight_bits: int, activation_bits: int) -> Assignment:
    return Space(read_space(space), inventory, "minmax").uniform(weight_bits, activation_bits)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("space", "bits"),
    [("runnable", (2, 3)), ("runnable", (3, 6)), ("runnable", (5, 8)), ("default", (4, 4)), ("default", (6, 5))],
)
def test_uniform_bits_are_executed(target: str, space: str, bits: tuple[int, int], tiny: Tiny, tmp_path: Path) -> None:
    assignment = uniform(space, tiny.inventory, *bits)
    file = tmp_path / "m.onnx"
    proved(target, tiny.model, tiny.images, assignment, file)
    weights = sum(c.numel * assignment[c.name].bits / 8 for c in tiny.inventory if c.slot == "weight")
    graph = onnx.load(file).graph
    stored = sum(len(t.raw_data) for t in graph.initializer if t.name.rpartition(".weight")[1] and t.data_type != 1)
    assert stored <= weights + 64  # nothing is stored twice or in wider integers


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "weight",
    [
        Choice(bits=3, granularity="channel"),
        Choice(bits=8, granularity="channel"),
        Choice(bits=5, granularity="group", group_size=8, symmetric=True),
        Choice(bits=6, granularity="group", group_size=16),
        *(Choice(bits=bits, quantizer="palette", granularity="channel", symmetric=True) for bits in (2, 3, 4, 7)),
        Choice(bits=3, quantizer="palette", granularity="tensor", symmetric=True),
        Choice(bits=6, quantizer="palette", granularity="group", group_size=8, symmetric=True),
        Choice(bits=7, granularity="tensor", symmetric=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("inputs", [5, 32])
def test_every_grid_of_weights_is_executed(target: str, weight: Choice, inputs: int, tiny: Tiny, tmp_path: Path) -> None:
    assignment = uniform("runnable", tiny.inventory, 4, 4)
    source = Choice(bits=32, quantizer="none") if inputs == 32 else Choice(bits=inputs)
    for component in tiny.inventory:
        if component.slot == "weight" and component.kind != "patch_embed":
            assignment[component.name] = weight
            assignment[f"{component.module}.input"] = source
    proved(target, tiny.model, tiny.images, assignment, tmp_path / "m.onnx")


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "weight",
    [
        Choice(bits=4, granularity="channel", symmetric=True),
        Choice(bits=5, quantizer="palette", granularity="channel", symmetric=True),
        Choice(bits=8, granularity="tensor"),
    ],
    ids=str,
)
def test_relative_levels_are_executed(target: str, weight: Choice, tiny: Tiny, tmp_path: Path) -> None:
    space = Space(read_space("default"), tiny.inventory, "minmax")
    assignment = {
        c.name: next((o for o in space.choices[c.name] if o.bits == 5), space.choices[c.name][-1]) for c in tiny.inventory
    }
    assert {assignment[f"blocks.0.attn.{slot}"].quantizer for slot in ("q", "k", "v", "qkv.input", "proj.input")} == {"relative"}
    assignment |= {c.name: weight for c in tiny.inventory if c.slot == "weight"}
    model = proved(target, tiny.model, tiny.images, assignment, tmp_path / "m.onnx")
    products = [node.op_type for node in model.graph.node if node.name.endswith("fc1/product")]
    integers = target == "onnxruntime" and weight.symmetric
    assert set(products) == {"MatMulIntegerToFloat" if integers else "MatMul"}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_convolutions_with_few_bits_are_executed(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    model, inventory = analyse(Convolving().eval(), images[:1])
    proved(target, model, images, uniform("runnable", inventory, 3, 5), tmp_path / "m.onnx")


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_products_outside_of_attention_are_executed(target: str, tmp_path: Path) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(12, 12), nn.Linear(12, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embed(x.flatten(2).mT.repeat(1, 1, 4)).relu()
            return self.head((torch.einsum("btc,bsc->bts", x, x) @ x).mean(1))

    torch.manual_seed(0)
    images = torch.randn(4, 3, 4, 4)
    model, inventory = analyse(Mixing().eval(), images[:1])
    assert any(c.slot in ("left", "right") for c in inventory)
    proved(target, model, images, uniform("runnable", inventory, 4, 6), tmp_path / "m.onnx")


def test_a_changed_constant_is_seen_by_the_proof_of_bits(tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    assignment = uniform("runnable", tiny.inventory, 3, 4)
    model = proved("onnxruntime", tiny.model, tiny.images, assignment, file)
    highest = next(t for t in model.graph.initializer if np.array_equal(onnx.numpy_helper.to_array(t), np.array(15, np.uint8)))
    highest.CopyFrom(onnx.numpy_helper.from_array(np.array(31, np.uint8), highest.name))
    file.write_bytes(model.SerializeToString())
    assert not bits_check(TARGETS["onnxruntime"].stored(file), assignment, tiny.inventory).passed


def test_targets_without_such_operators_refuse(tiny: Tiny) -> None:
    assignment = uniform("runnable", tiny.inventory, 4, 4)
    for target in ("openvino-bf16", "litert", "executorch"):
        with pytest.raises(PmqError, match=target):
            TARGETS[target].check(assignment, tiny.inventory)


def test_groups_that_inputs_do_not_fill_are_refused_where_no_kernel_takes_them(tiny: Tiny) -> None:
    assignment = uniform("runnable", tiny.inventory, 4, 4)
    for bits, source in ((5, Choice(bits=32, quantizer="none")), (4, Choice(bits=8))):
        weight = Choice(bits=bits, granularity="group", group_size=24, symmetric=True)
        changed = assignment | {"head.weight": weight, "head.input": source}
        for target in ("onnxruntime", "openvino"):
            with pytest.raises(PmqError, match="groups of 24"):
                TARGETS[target].check(changed, tiny.inventory)


def test_shorthands_are_files(tmp_path: Path) -> None:
    images = pmq.open_images(None, None).calibration_images(48, 0)
    options: dict[str, Any] = {"calibration_images": images[:32], "recipe": "minmax", "n_passes": 3}
    whole = pmq.deploy(None, "w4a4", "onnxruntime", images[32:], tmp_path / "a", **options)
    assert whole.passed, whole.proof
    assert "operands" in whole.proof
    packed = pmq.deploy(None, "w3a8", "openvino", images[32:], tmp_path / "b", **options)
    assert packed.passed, packed.proof
    assert packed.size_bytes < whole.size_bytes < 0.6e6
