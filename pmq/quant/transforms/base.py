"""Registry of equivalent transforms, which rewrite a model's weights without changing its FP32 outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pmq.core.registry import Registry
from pmq.graph import CapturedModel
from pmq.models.equivalence import Equivalence, Rewriting

#: number of images in a batch
BATCH = 16


@dataclass(frozen=True)
class Setting:
    """Data that transforms use: calibration images ``(N, C, H, W)``, and a seed for random rotations."""

    images: Tensor
    seed: int = 0

    def batches(self, device: torch.device) -> Iterator[Tensor]:
        """Return the images in batches on ``device``."""
        return (batch.to(device) for batch in self.images.split(BATCH))


Transform = Callable[[CapturedModel, Setting], None]
TRANSFORMS: Registry[Transform] = Registry("transform")


def apply_transforms(
    model: CapturedModel, names: Sequence[str], setting: Setting, equivalence: Equivalence
) -> tuple[Rewriting, ...]:
    """Apply transforms to ``model`` in place, in order, and undo each that changes its outputs; return their results."""
    return tuple(equivalence.apply(name, model, partial(TRANSFORMS[name], model, setting)) for name in names)


def register(name: str) -> Callable[[Transform], Transform]:
    """Return a decorator that registers a transform as ``name``."""

    def add(transform: Transform) -> Transform:
        TRANSFORMS.add(name, transform)
        return transform

    return add
