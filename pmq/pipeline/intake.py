"""Models as they are taken in: copied or created, moved, checked, and run once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pmq.core.allocation import Allocation, ModelInfo
from pmq.core.errors import PmqError, one_line
from pmq.models import create_model
from pmq.models.describe import input_size, model_name
from pmq.models.finite import check_finite
from pmq.models.normalize import adopt
from pmq.models.output_selection import pick_output

#: largest side in pixels that is accepted from an allocation file
_MOST = 4096


def take_in(
    model: nn.Module,
    device: str | torch.device | None = None,
    images: Tensor | None = None,
    like: ModelInfo | None = None,
) -> nn.Module:
    """Copy a module with the checks of :meth:`pmq.pipeline.subject.Subject.of`, without capturing it."""
    return normalized(model, device, images, like)[0]


def normalized(
    model: nn.Module | str | None,
    device: str | torch.device | None,
    images: Tensor | None,
    like: ModelInfo | None,
    allocation: Allocation | None = None,
) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the copy, an image ``(1, C, H, W)`` for it, and its output for that image."""
    size = _input_size(like)
    image = images[:1] if images is not None else torch.zeros(1, *size) if size else None
    module = create_model(model) if model is None or isinstance(model, str) else adopt(model, image)
    if allocation is not None:
        allocation.check_name(model_name(module))
    module = _moved(module, device)
    check_finite(module)
    image = torch.zeros(1, *input_size(module)) if image is None else image
    image = image.to(next(module.parameters()).device)
    output = _output(module, image)
    if images is not None:
        check_finite(module, images)
    return module, image, output


def _moved(module: nn.Module, device: str | torch.device | None) -> nn.Module:
    try:
        return module if device is None else module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise PmqError(f"device {str(device)!r} cannot be used: {one_line(error)}; try `device=cpu`") from None


def _input_size(like: ModelInfo | None) -> list[int] | None:
    size = None if like is None else like.data_config.get("input_size")
    fits = isinstance(size, list) and len(size) == 3 and all(isinstance(side, int) and 0 < side <= _MOST for side in size)
    return size if fits else None


def _output(module: nn.Module, image: Tensor) -> Tensor:
    """Return the output for an image; where the model cannot take it, the error states the size it was built for."""
    try:
        return pick_output(module, image)
    except PmqError as error:
        built, size = input_size(module), list(image.shape[1:])
        raise PmqError(f"{error}; it was built for {tuple(built)}" if built != size else str(error)) from None
