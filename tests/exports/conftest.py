"""An allocation of the tiny ViT with uneven levels, scales per head and several bit-widths, and what formats hold of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pmq.core import FLOAT, Allocation
from pmq.exports import FORMATS
from pmq.exports.fit import fit
from pmq.optimize import SpaceFile
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.export import export_model
from pmq.pipeline.subject import Subject
from pmq.quant import build_quantized_model
from tests.asked import asked
from tests.conftest import make_tiny
from tests.shallow import few_bits, shallow_searches

#: function that returns what pmq simulates of the components that a format holds as they are
Reference = Callable[[str], nn.Module]


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def searched(images: torch.Tensor, space: SpaceFile) -> Allocation:
    """What some search of the tiny ViT chose."""
    from pmq.api import search

    quick = {"recipe": "fast", "n_calibration": 8, "n_held_out": 16, "n_rounds": 1, "max_evals": 2}
    with shallow_searches():
        return search(make_tiny(), images, "4.5bit", space=space, **asked(**quick)).allocation


@pytest.fixture(scope="session")
def mixed(images: torch.Tensor) -> Allocation:
    """Even levels, but for GELU and softmax outputs."""
    space = few_bits(3, 4, 5, 8, of="runnable")
    return searched(images, space.model_copy(update={"weight": space.weight.model_copy(update={"quantizer": "affine"})}))


@pytest.fixture(scope="session")
def free(images: torch.Tensor) -> Allocation:
    """Free levels of weights, and activations whose levels are found at run time."""
    return searched(images, few_bits(3, 4, 5, 8))


@pytest.fixture(scope="session")
def mixed_file(mixed: Allocation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed.save(tmp_path_factory.mktemp("mixed") / "mixed.json")


@pytest.fixture(scope="session")
def reference(mixed: Allocation) -> Reference:
    def simulated(name: str) -> nn.Module:
        exported = export_model(make_tiny(), mixed)
        left_out = fit(exported.tensors, FORMATS[name].holds_all(exported), "skip").left_out
        subject = Subject.of(make_tiny(), like=mixed)
        simulator = build_quantized_model(subject.model, subject.inventory, load_quantized(subject, mixed), integers=False)
        for component in left_out:
            if not component.endswith(".weight"):  # weights keep their values where a tool is not told their bits
                simulator.set(component, FLOAT)
        return simulator.model

    return simulated
