"""Allocation files that were written before models were captured as graphs load, and compute what they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pmq
from pmq.core import Allocation
from pmq.models import model_info
from pmq.models.torchvision_ops import ensure_torchvision
from tests.conftest import make_tiny

FILES = Path(__file__).parent / "allocations"


def of(name: str) -> tuple[nn.Module, int]:
    if name == "vit":
        return make_tiny(embed_dim=16), 32
    ensure_torchvision()
    import timm

    options: dict[str, Any] = {"img_size": 56, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 7}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **options).eval(), 56


@pytest.mark.parametrize("name", ["vit", "swin"])
@torch.no_grad()
def test_old_files_compute_what_they_did(name: str) -> None:
    module, size = of(name)
    allocation = Allocation.load(FILES / f"{name}.json")
    info = allocation.model.model_copy(update={"weights_sha256": model_info(module).weights_sha256})  # of whatever was drawn here
    images = torch.randn(24, 3, size, size, generator=torch.Generator().manual_seed(5))[:4]
    found = pmq.simulate(module, allocation.model_copy(update={"model": info}))(images)
    wanted = torch.tensor(json.loads((FILES / f"{name}-outputs.json").read_text()))
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
