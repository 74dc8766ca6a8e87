"""The model and the images of a benchmark, as its command line names them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from pmq.core import Allocation
from pmq.core.memory import keep_freed_memory
from pmq.data import Data, open_data
from pmq.models import create_model, model_info
from pmq.pipeline.patches.reallocator import Reallocator


def parser(description: str | None, *before: str) -> argparse.ArgumentParser:
    """A command line with what every benchmark of a model needs, ``before`` being its first arguments."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in before:
        found.add_argument(name)
    found.add_argument("model", nargs="?")
    found.add_argument("--checkpoint")
    found.add_argument("--data")
    found.add_argument("--crop-pct", type=float)
    found.add_argument("--limit", type=int, help="images to judge by; all without")
    found.add_argument("--out", type=Path, required=True)
    return found


def opened(args: argparse.Namespace) -> tuple[nn.Module, Data]:
    """The model and its images."""
    keep_freed_memory()
    model = create_model(args.model, args.checkpoint)
    return model, open_data(args.data, model_info(model), crop_pct=args.crop_pct)


@dataclass(frozen=True)
class Allocated:
    """An allocation, what maps are laid over it by, and its images.

    Attributes:
        model: as it was opened.
        data: its images.
        reallocator: around the allocation.
        images: that the allocation's search has seen.
        indices: of images for evaluation that it has not.
    """

    model: nn.Module
    data: Data
    reallocator: Reallocator
    images: Tensor
    indices: list[int]


def allocated(args: argparse.Namespace) -> Allocated:
    """What a command line with an allocation names."""
    model, data = opened(args)
    allocation = Allocation.load(args.allocation)
    info = allocation.calibration
    assert info is not None and info.seed is not None
    images = data.calibration_images(info.images_used, info.seed)
    indices = data.evaluation_indices(info.images_used, info.seed, args.limit)
    return Allocated(model, data, Reallocator(model, allocation, images, args.crop_pct), images, indices)
