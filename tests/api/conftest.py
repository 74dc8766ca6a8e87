"""Images of the tiny ViT, and how long its layers take."""

from __future__ import annotations

import pytest
import torch

from pmq.api import profile
from pmq.cost import LatencyTable
from tests.conftest import make_tiny


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def table() -> LatencyTable:
    found = profile(make_tiny(), "onnxruntime", n_passes=3)
    # What a layer adds is a difference of two measurements; on a busy machine that may come out below zero.
    return found.model_copy(
        update={"layers": {n: {k: max(ms, 1e-4) for k, ms in row.items()} for n, row in found.layers.items()}}
    )
