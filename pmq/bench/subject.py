"""Model, images and allocation of a benchmark, as selected on its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pmq.core import Allocation
from pmq.core.spec import What
from pmq.data import Data, open_data
from pmq.models import create_model, model_info
from pmq.models.float_products import tune_process
from pmq.pipeline.evaluation_table import EvaluationPlan, plan_evaluation
from pmq.pipeline.patches.reallocator import Reallocator


def benchmark_parser(description: str | None, *before: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks of a model share, after the positional arguments ``before``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in before:
        parser.add_argument(name)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--checkpoint")
    parser.add_argument("--data")
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--limit", type=int, help="number of images to evaluate on (default: all)")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def open_model_and_data(args: argparse.Namespace) -> tuple[nn.Module, Data]:
    """Create the model and open its images."""
    tune_process()
    model = create_model(args.model, args.checkpoint)
    return model, open_data(args.data, model_info(model), crop_pct=args.crop_pct)


@dataclass(frozen=True)
class OpenedAllocation:
    """Allocation with its model, its images and the reallocator that adds patch maps to it.

    Attributes:
        model: the FP32 model.
        data: the images of the model.
        reallocator: reallocator of the allocation.
        images: images ``(N, C, H, W)`` that the search for the allocation used.
        indices: indices of evaluation images that the search did not use.
    """

    model: nn.Module
    data: Data
    reallocator: Reallocator
    images: Tensor
    indices: list[int]


def open_allocation(args: argparse.Namespace) -> OpenedAllocation:
    """Open the model, images and allocation that a command line names."""
    model, data = open_model_and_data(args)
    allocation = Allocation.load(args.allocation)
    info = allocation.calibration
    assert info is not None and info.seed is not None
    images = data.calibration_images(info.images_used, info.seed)
    indices = data.evaluation_indices(info.images_used, info.seed, args.limit)
    return OpenedAllocation(model, data, Reallocator(model, allocation, images, args.crop_pct), images, indices)


def uniform_plan(
    model: nn.Module, what: Sequence[What], batches: Any, calibration: Tensor, space: str, recipe: str, seed: int
) -> EvaluationPlan:
    """Return the plan of an evaluation whose other settings are the defaults."""
    return plan_evaluation(
        *(model, what, batches),
        calibration_images=calibration,
        space=space,
        recipe=recipe,
        reconstruct=False,
        checkpoints=None,
        recalibrate=False,
        crop_pct=None,
        seed=seed,
        device=None,
        task="auto",
        loss=None,
        partial=False,
    )
