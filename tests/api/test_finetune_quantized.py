"""Quantization-aware fine-tuning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pmq
from pmq.core import Allocation, PmqError
from pmq.core.paths import spaces_folder
from pmq.core.run_files import CHOSEN, START
from pmq.pipeline.distillation_state import STATE
from pmq.pipeline.finetuning_start import StartSettings
from pmq.pipeline.students import QuantizedModelStudent
from pmq.pipeline.subject import Subject
from tests.api.test_finetune import Source
from tests.conftest import make_tiny

OPTIONS = {"epochs": 3, "rate": 2e-4, "batch_size": 8, "recipe": "mse"}


def started(images: torch.Tensor, folder: Path, what: str = "w3a3", space: str = "default") -> Allocation:
    settings = StartSettings(images[:8], space, "mse", False, None, False, 0)
    return settings.allocation(what, Subject.of(make_tiny(), images=images), folder)


def test_it_learns_and_everyone_computes_what_its_best_epoch_did(tmp_path: Path) -> None:
    many = torch.randn(160, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    options = OPTIONS | {"rate": 1e-3, "vary": False, "calibration_images": many[:8]}
    found = pmq.finetune(make_tiny(), "w2a2", Source(many), list(range(128)), many[128:], out=tmp_path, **options)
    assert found.after == min(found.history) < 0.9 * found.before
    kept = Allocation.load(tmp_path / CHOSEN)
    assert kept.assignment == found.start.assignment
    assert {choice.quantizer for choice in kept.components.values()} >= {"affine", "palette", "power", "codebook"}
    assert kept.recipe.finetune == 3
    assert not kept.recipe.plain
    assert kept.calibration.images_used == 160
    before, after = pmq.evaluate(make_tiny(), [found.start, kept], [many[128:136], many[136:]])["kl"]
    assert (before, after) == pytest.approx((found.before, found.after), rel=1e-4)
    moved = [n for n, parameters in kept.parameters.items() if parameters != found.start.parameters[n]]
    assert len(moved) == len(kept.parameters)
    with pytest.raises(PmqError, match="was fine-tuned"):
        pmq.evaluate(make_tiny(), kept, [many[:8]], calibration_images=many[:8], recalibrate=True)


def test_the_training_computes_what_the_allocation_stands_for(images: torch.Tensor, tmp_path: Path) -> None:
    """Bit by bit, for grids by head and by token, free levels, powers and logarithms, after all parameters have moved."""
    text = (spaces_folder() / "default.yaml").read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text.replace("quantizer: power", "quantizer: log").replace("uniform: {2: codebook", "uniform: {2: relative"))
    for what, space in (("w2a2", "default"), ("w4a5", "default"), ("w3a4", str(own))):
        start = started(images, tmp_path / what, what, space)
        student = QuantizedModelStudent(start, Subject.of(make_tiny(), images=images))
        with torch.no_grad():
            for parameter in student.module.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
            trained = student.module(images)
        exact = pmq.simulate(make_tiny(), student.allocation(1))
        torch.testing.assert_close(exact(images), trained, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(exact(images), student.simulation()(images), rtol=0, atol=0)


def test_killed_and_resumed_ends_where_undisturbed_does(images: torch.Tensor, tmp_path: Path) -> None:
    given, options = (make_tiny(), "w3a3"), OPTIONS | {"calibration_images": images[:8]}
    whole = pmq.finetune(*given, Source(images), list(range(24)), images[24:], out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        pmq.finetune(*given, Source(images, 4), list(range(24)), images[24:], out=tmp_path / "cut", **options)
    assert (tmp_path / "cut" / STATE).is_file()
    assert (tmp_path / "cut" / START).is_file()
    with pytest.raises(PmqError, match="its start was"):
        other = options | {"recipe": "minmax"}
        pmq.finetune(*given, Source(images), list(range(24)), images[24:], out=tmp_path / "cut", resume=True, **other)
    again = pmq.finetune(*given, Source(images), list(range(24)), images[24:], out=tmp_path / "cut", resume=True, **options)
    assert again.history == whole.history
    assert again.allocation.parameters == whole.allocation.parameters
    assert again.allocation.tensors_sha256 == whole.allocation.tensors_sha256


def test_oscillation_is_damped(images: torch.Tensor, tmp_path: Path) -> None:
    student = QuantizedModelStudent(started(images, tmp_path), Subject.of(make_tiny(), images=images)).module
    assert student.oscillation().item() == pytest.approx(0, abs=1e-9)  # it starts from levels
    weight = student.model.get_parameter("blocks.0.mlp.fc1.weight")
    scale = student.quantized().tensors.arrays()["blocks.0.mlp.fc1.weight.scale"][0]
    with torch.no_grad():
        weight[0, 0] += 0.25 * float(scale)
    term = student.oscillation()
    assert term.item() == pytest.approx((0.25 * float(scale)) ** 2, rel=1e-2)
    term.backward()
    assert weight.grad[0, 0] > 0  # a step against the gradient leads back to the level
    assert student.grids["blocks/0/mlp/fc1/weight"].grid.gain.grad is None


def test_pruned_models_with_bits_are_trained(images: torch.Tensor, tmp_path: Path) -> None:
    pruned = pmq.load_pruned(pmq.prune(make_tiny(), images[:16], 0.5, importance="random").allocation, make_tiny())
    options = OPTIONS | {"epochs": 1, "calibration_images": images[:8]}
    start = pmq.finetune(pruned, "w4a4", Source(images), list(range(16)), images[24:], out=tmp_path / "a", **options).start
    assert start.pruning is not None
    found = pmq.finetune(make_tiny(), start, Source(images), list(range(16)), images[24:], out=tmp_path / "b", **options)
    assert found.allocation.pruning.units == start.pruning.units
    (kl,) = pmq.evaluate(make_tiny(), found.allocation, [images[24:]])["kl"]
    assert kl == pytest.approx(found.after, rel=1e-4)


def test_files_compute_what_was_trained(images: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    start = started(images, tmp_path, space="runnable")
    found = pmq.finetune(make_tiny(), start, Source(images), list(range(24)), images[24:], out=tmp_path / "run", **OPTIONS)
    deployed = pmq.deploy(make_tiny(), found.allocation, "onnxruntime", images[24:], tmp_path / "file", n_passes=3)
    assert deployed.passed
    assert deployed.agreement_simulated == 100


@pytest.mark.parametrize(
    ("what", "options", "told"),
    [
        ("fp32", {}, "nothing to fine-tune"),
        ("w3a3", {"calibration_images": None}, "needs calibration images"),
        ("w8a8", {"space": "qdq"}, "every tensor between operators"),
        ("w9a3", {}, "9"),
        ("elsewhere", {}, "no allocation file"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    what: str, options: dict[str, object], told: str, images: torch.Tensor, tmp_path: Path
) -> None:
    options = OPTIONS | {"calibration_images": images[:8]} | options
    with pytest.raises(PmqError, match=told):
        pmq.finetune(make_tiny(), what, Source(images), list(range(24)), images[24:], out=tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()
