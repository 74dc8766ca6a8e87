"""Every verb that runs the model in PyTorch, on the device that ``PMQ_DEVICE`` names, against the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import pmq
from pmq.bench.gpu_check import Training, differences, finetuned_on, sensitivities
from pmq.core.rundir import CHOSEN
from tests.conftest import make_tiny
from tests.shallow import shallow_searches

DEVICE = os.environ.get("PMQ_DEVICE", "cpu")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(80, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_model_decides_as_on_the_cpu(images: torch.Tensor, bits: int) -> None:
    row = differences(DEVICE, make_tiny(), images, bits)
    assert row["kl_simulation"] <= 3 * row["kl_itself"] + 1e-6
    assert row["agreement_simulation"] >= 95


def test_sensitivities_are_those_of_the_cpu(images: torch.Tensor) -> None:
    there, here = sensitivities(DEVICE, make_tiny(), images), sensitivities("cpu", make_tiny(), images)
    assert torch.allclose(there, here, rtol=1e-2, atol=1e-3 * float(here.max()))


def test_a_search_ends_and_its_allocation_is_worth_the_same_on_the_cpu(images: torch.Tensor, tmp_path: Path) -> None:
    with shallow_searches():
        pmq.search(make_tiny(), images, "4bit", out=tmp_path / "run", run=pmq.RunOptions(device=DEVICE))
    chosen = tmp_path / "run" / CHOSEN
    (there,), (here,) = (pmq.evaluate(make_tiny(), chosen, [images[64:]], device=d)["kl"] for d in (DEVICE, "cpu"))
    assert there == pytest.approx(here, rel=0.1)


def test_a_pruned_model_is_finetuned(images: torch.Tensor, tmp_path: Path) -> None:
    finetuned_on(DEVICE, make_tiny(), images, tmp_path)
    assert (tmp_path / CHOSEN).exists()


def test_a_quantized_model_is_finetuned_and_is_worth_the_same_on_the_cpu(images: torch.Tensor, tmp_path: Path) -> None:
    options = {"calibration_images": images[:8], "recipe": "mse", "epochs": 1, "batch_size": 16, "amp": True}
    teacher, order = make_tiny().to(DEVICE), list(range(64))
    tuned = pmq.finetune(teacher, "w4a4", Training(images), order, images[64:], out=tmp_path, **options)
    (kl,) = pmq.evaluate(make_tiny(), tuned.allocation, [images[64:]], device="cpu")["kl"]
    assert kl == pytest.approx(tuned.after, rel=0.1)
