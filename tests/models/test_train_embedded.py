from pathlib import Path

import torch

from pmq.models.embedded import ASSETS
from pmq.models.train_embedded import augment


def test_assets_are_small_and_say_where_they_are_from() -> None:
    assert sum(p.stat().st_size for p in ASSETS.iterdir()) <= 9e6
    assert (ASSETS / "model.safetensors").stat().st_size <= 3e6
    text = Path(ASSETS / "README.md").read_text()
    assert "MIT" in text
    assert "Zalando" in (ASSETS / "LICENSE").read_text()


def test_augmentation_keeps_shape_and_follows_its_generator() -> None:
    x = torch.randn(5, 1, 28, 28)
    a, b = (augment(x, torch.Generator().manual_seed(0)) for _ in range(2))
    assert a.shape == x.shape
    assert torch.equal(a, b)
