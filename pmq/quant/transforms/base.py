"""What an equivalent transform is: a rewriting of a model's weights that leaves its FP32 outputs as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pmq.core.registry import Registry
from pmq.graph import CapturedModel
from pmq.models.equivalence import Equivalence, Rewriting

BATCH = 16


@dataclass(frozen=True)
class Setting:
    """What a transform may look at: calibration images ``(N, C, H, W)``, and a seed for random rotations."""

    images: Tensor
    seed: int = 0

    def batches(self, device: torch.device) -> Iterator[Tensor]:
        """The images in batches on ``device``."""
        return (batch.to(device) for batch in self.images.split(BATCH))


Transform = Callable[[CapturedModel, Setting], None]
TRANSFORMS: Registry[Transform] = Registry("transform")


def apply_transforms(
    model: CapturedModel, names: Sequence[str], setting: Setting, equivalence: Equivalence
) -> tuple[Rewriting, ...]:
    """Apply transforms to ``model`` in place, in order; each proves itself on images or is undone."""
    return tuple(equivalence.apply(name, model, partial(TRANSFORMS[name], model, setting)) for name in names)


def register(name: str) -> Callable[[Transform], Transform]:
    """Make a transform known by ``name``."""

    def add(transform: Transform) -> Transform:
        TRANSFORMS.add(name, transform)
        return transform

    return add
