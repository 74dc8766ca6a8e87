"""What flags say of a model, and what its folder remembers of it."""

from __future__ import annotations

from pathlib import Path

import torch

import pmq
from pmq.cli.subject import open_model
from pmq.core.rundir import add_to_manifest
from pmq.models import model_info


def test_a_pruned_model_is_made_with_the_arguments_that_its_folder_remembers(tmp_path: Path) -> None:
    made = {"model_kwargs": ["patch_size=8", "depth=1", "embed_dim=24", "num_heads=2"], "input_size": (3, 32, 48)}
    model = open_model("vit_tiny_patch16_224", None, 3, False, **made)  # type: ignore[arg-type]
    images = torch.randn(8, 3, 32, 48)
    pmq.prune(model, images, ratio=0.25, importance="magnitude", calib_images=8, out=tmp_path / "pruned")
    add_to_manifest(tmp_path / "pruned", {"command": made})
    found = open_model(str(tmp_path / "pruned"), None, None, True)
    assert model_info(found).data_config["input_size"] == [3, 32, 48]
    with torch.no_grad():
        assert found(images).shape == (8, 3)
