"""Files of integers alone: every tensor is quantized, they compute what was simulated, and they hold the bits that were given."""

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
from pmq.core import PmqError
from pmq.core.recipe import find_recipe
from pmq.graph import captured, take_inventory, with_tensors
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.optimize import Space, read_space
from pmq.quant import build_quantized_model, prepare, quantize, restore
from pmq.runtimes import TARGETS
from pmq.runtimes.labels import TARGET
from pmq.runtimes.layer import deploy_layers
from pmq.runtimes.operand import deploy_operands, mark_operands
from pmq.runtimes.proof import bits_check, layer_errors, layers_check, operand_errors, outputs_of
from pmq.runtimes.qdq_grids import RATIO, Grid
from pmq.runtimes.qdq_read import read_bits
from tests.asked import asked
from tests.conftest import Tiny
from tests.shallow import shallow_searches

QDQ = TARGETS["qdq"]
VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
SWIN: dict[str, Any] = {"img_size": 56, "embed_dim": 24, "depths": (2, 1), "num_heads": (2, 2)}
FAMILIES = {
    "vit_tiny_patch16_224": VIT,
    "deit3_small_patch16_224": VIT,  # gains behind attention and MLP
    "swin_tiny_patch4_window7_224": SWIN,  # shifted windows, masks, biases of attention, patches merged
    "eva02_tiny_patch14_224": VIT,  # rotary positions, gated MLPs
}


def made(name: str, options: dict[str, Any]) -> tuple[nn.Module, torch.Tensor]:
    """A random model whose norms do something, and images for it."""
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=7, **options).eval()
    with torch.no_grad():
        for key, p in module.named_parameters():
            if p.ndim == 1:
                p.add_(0.2 * torch.randn(p.shape))
            elif "pos" not in key and "cls" not in key:
                p.mul_(4)
    return module, torch.randn(4, 3, options["img_size"], options["img_size"])


def drawn(space: Space, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int(rng.integers(len(d))) for d in space.decisions]


def written(module: nn.Module, images: torch.Tensor, path: Path, seed: int = 0) -> tuple[Any, ...]:
    model = with_tensors(captured(module, images[:1]))
    inventory = take_inventory(model, images[:1])
    space = Space(read_space("qdq"), inventory, "minmax")
    assignment = space.assignment(drawn(space, seed))
    QDQ.check(assignment, inventory)
    quantized = quantize(prepare(copy.deepcopy(model), inventory, images, find_recipe("minmax"), 0), assignment)
    restored = copy.deepcopy(model)
    layers, operands = (
        deploy_layers(restored, inventory, quantized, restore(restored, quantized)),
        deploy_operands(inventory, quantized),
    )
    mark_operands(restored, operands)
    skeleton = QDQ.skeleton(restored, [layer.name for layer in layers], images[:1])
    QDQ.save(QDQ.build(skeleton, layers, operands), path, {TARGET: "qdq"})
    return inventory, quantized, layers, operands, build_quantized_model(copy.deepcopy(model), inventory, quantized)


@pytest.mark.parametrize(("name", "options"), FAMILIES.items(), ids=[name.partition("_")[0] for name in FAMILIES])
def test_files_compute_what_was_simulated(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    module, images = made(name, options)
    inventory, quantized, layers, operands, simulator = written(module, images, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [opset.domain for opset in model.opset_import] == [""]
    assert bits_check(QDQ.stored(tmp_path / "m.onnx"), quantized.assignment, inventory).passed
    assert layers_check(layer_errors(QDQ, layers, simulator, images[:1])).passed
    assert max(operand_errors(QDQ, operands, simulator, images[:1]).values()) <= 1.0
    found = outputs_of(QDQ.session(tmp_path / "m.onnx"), images)
    with torch.no_grad():
        wanted, exact = simulator.model(images), module(images)
    # values between two levels may be rounded either way, and such flips compound: the parts above must be exact, not the whole
    assert float((found - wanted).norm()) < 0.8 * float((exact - wanted).norm()) + 1e-3 * float(wanted.norm())


def test_a_searched_allocation_is_a_proved_file(tiny: Tiny, tmp_path: Path) -> None:
    """From the search, whose front holds what the target takes alone, to the file with the bits that it chose."""
    quick = asked(recipe="fast", n_calibration=8, n_held_out=16, n_rounds=1, max_evals=2)
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with shallow_searches():
        result = pmq.search(tiny.module, images, "bitops=0.045G", space="qdq", **quick)
    bits = {choice.bits for name, choice in result.allocation.assignment.items() if name.endswith(".tensor")}
    assert bits == {8, 16}
    assert result.allocation.budget is not None
    assert result.allocation.budget.achieved["bit_ops"] <= 0.045e9
    file = result.allocation.save(tmp_path / "chosen.json")
    evaluated = pmq.evaluate(tiny.module, file, [images])  # without its space, as an allocation says everything
    assert evaluated["n_images"].tolist() == [24]
    deployment = pmq.deploy(tiny.module, file, "qdq", images[8:], tmp_path, n_passes=3)
    # a single value of few between two levels is more than the proof allows a large model
    assert {name for name, check in deployment.proof.items() if not check.passed} <= {"operands"}
    assert deployment.proof["operands"].measured < 0.5
    assert deployment.proof["bits"].measured == 0
    read = {name: bits for name, bits in deployment.layers.items() if name.endswith(".tensor")}
    assert {int(label) for label in read.values()} == {8, 16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.tensor": {"bits": 4}}, "cannot run 'head.tensor' at 4 bits"),
        ({"head.weight": {"bits": 8, "granularity": "channel"}}, "not symmetric"),
        ({"blocks.0.norm1.tensor": {"bits": 8}, "blocks.0.attn.qkv.tensor": {"bits": 16}}, "'blocks.0.attn.qkv' at 8 x 8 bits"),
    ],
)
def test_refuses_what_it_cannot_run(change: dict[str, Any], message: str, tiny: Tiny) -> None:
    inventory = take_inventory(with_tensors(tiny.model), tiny.images[:1])
    uniform = Space(read_space("qdq"), inventory).uniform(8, 8)
    changed = {name: uniform[name].model_copy(update={"symmetric": False} | options) for name, options in change.items()}
    QDQ.check(uniform, inventory)
    with pytest.raises(PmqError, match=message):
        QDQ.check(uniform | changed, inventory)
    with pytest.raises(PmqError, match="needs bits for every tensor"):
        QDQ.check(tiny.space.uniform(8, 8), tiny.inventory)


def test_what_is_not_quantized_is_found(tiny: Tiny, tmp_path: Path) -> None:
    """A file in which one operator computes with floats does not pass as integers."""
    written(tiny.module, tiny.images[:4], tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    gelu = next(node for node in model.graph.node if node.op_type == "Gelu")
    makers = {node.output[0]: node for node in model.graph.node}
    quantized = makers[makers[gelu.input[0]].input[0]]
    gelu.input[0] = quantized.input[0]
    with pytest.raises(LookupError, match="operator"):
        read_bits(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(PmqError, match="is not quantized"):
        QDQ.stored(tmp_path / "m.onnx")


def test_a_wider_grid_contains_the_narrower_one() -> None:
    """Rounding to 16 bits on the way never changes the 8-bit code, so conversions in files need no simulation."""
    grid = Grid(8, 0.037, 91)
    wide = grid.at(16)
    assert (wide.scale * RATIO, wide.zero) == (pytest.approx(grid.scale), 91 * RATIO)
    values = np.random.default_rng(0).uniform(-5, 8, 100_000)
    through = (wide.codes(values).astype(np.float64) - wide.zero) * wide.scale
    assert (grid.codes(through) == grid.codes(values)).all()
    levels = (np.arange(256) - grid.zero) * grid.scale
    assert (wide.codes(levels) == np.arange(256) * RATIO).all()


def test_pixels_and_open_batches_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    config = {"mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(PmqError, match="deploy with `input=float`"):
        pmq.deploy(tiny.module, "w8a8", "qdq", tiny.images, tmp_path, input="uint8", data_config=config)
    with pytest.raises(PmqError, match="no open batch size"):
        pmq.deploy(tiny.module, "w8a8", "qdq", tiny.images, tmp_path, dynamic_batch=True)
