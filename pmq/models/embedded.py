"""Embedded default model: a small ViT trained on Fashion-MNIST that ships inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pmq.models.torchvision_ops import ensure_torchvision

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "fashion_mnist"
EMBEDDED_NAME = "vit_fashion_mnist"
ARCHITECTURE: dict[str, Any] = {
    "img_size": 28,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 3,
}
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
#: preprocessing in timm's form; mean and std are those of the 60,000 training images
PRETRAINED_CFG: dict[str, Any] = {
    "architecture": EMBEDDED_NAME,
    "input_size": (1, 28, 28),
    "num_classes": 10,
    "mean": (0.2860,),
    "std": (0.3530,),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
    "label_names": CLASSES,
}


def embedded_architecture(**overrides: Any) -> torch.nn.Module:
    """Create the untrained timm ``VisionTransformer`` of the embedded default model."""
    ensure_torchvision()
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        pretrained_cfg=PRETRAINED_CFG,
        **(ARCHITECTURE | overrides),
    )
