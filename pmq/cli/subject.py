"""Turn flags into a model and its images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from pmq.data import Data


def open_subject(
    model: str | None,
    checkpoint: Path | None,
    num_classes: int | None,
    pretrained: bool,
    data: str | None,
    split: str | None,
    crop_pct: float | None,
    workers: int,
    device: str,
    threads: int | None,
) -> tuple[nn.Module, Data]:
    """Create the model on its device and open its images."""
    import torch

    from pmq.core import PmqError
    from pmq.core.errors import one_line
    from pmq.data import open_data
    from pmq.models import create_model, model_info

    if threads is not None:
        torch.set_num_threads(threads)
    module = create_model(model, checkpoint, num_classes, pretrained)
    images = open_data(data, model_info(module), split, crop_pct, workers)
    try:
        module = module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise PmqError(f"device {device!r} cannot be used: {one_line(error)}; try --device cpu") from None
    return module, images
