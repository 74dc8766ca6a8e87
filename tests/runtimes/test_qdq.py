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
from pmq.optimize import Space, SpaceFile, read_space
from pmq.quant import Simulator, build_quantized_model, prepare, quantize, restore
from pmq.runtimes import TARGETS
from pmq.runtimes.labels import TARGET
from pmq.runtimes.layer import deploy_layers
from pmq.runtimes.operand import deploy_operands, mark_operands
from pmq.runtimes.proof import bits_check, layer_errors, layers_check, operand_errors, outputs_of
from pmq.runtimes.qdq_grids import RATIO, Grid
from pmq.runtimes.qdq_read import read_bits
from tests.conftest import Tiny

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
    layers, operands = deploy_layers(restored, inventory, quantized, restore(restored, quantized)), deploy_operands(inventory, quantized)
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
    assert float((found - wanted).norm()) < 0.25 * float((exact - wanted).norm()) + 1e-3 * float(wanted.norm())
