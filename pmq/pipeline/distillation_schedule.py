"""How a student is trained, and how images are varied for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pmq.models.distil import augment, mixed


@dataclass(frozen=True)
class Schedule:
    """How a student is trained.

    Attributes:
        epochs: how often each image is seen.
        rate: highest learning rate.
        batch_size: images in a step.
        amp: whether products are computed in bfloat16.
        vary: whether images are mirrored and magnified at random.
        mix: whether images are blended with one another at random.
        seed: seed of order and variation.
    """

    epochs: int
    rate: float
    batch_size: int
    amp: bool
    vary: bool
    mix: bool
    seed: int

    def varied(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a batch ``(B, C, H, W)`` as it is learned from."""
        images = augment(images, generator) if self.vary else images
        return mixed(images, generator) if self.mix else images
