"""What a command works on: a model with its description, components and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.allocation import Allocation, ModelInfo
from pmq.core.component import Inventory
from pmq.core.errors import PmqError, one_line
from pmq.core.progress import message
from pmq.core.task import AUTO, CLASSIFICATION, Loss, Task
from pmq.graph import CapturedModel, captured, take_inventory
from pmq.models import create_model, model_info
from pmq.models.describe import input_size, model_name, says_preparation
from pmq.models.equivalence import check_captured
from pmq.models.finite import check_finite
from pmq.models.normalize import adopt
from pmq.models.output_selection import pick_output
from pmq.models.outputs import scaled
from pmq.models.prepared import prepare_as
from pmq.models.task import set_task
from pmq.quant.custom_loss import check_loss, loss_name

#: pixels of a side that an allocation file may tell of
_MOST = 4096


@dataclass(frozen=True)
class Subject:
    """A model and what is known of it.

    Attributes:
        module: as it was written.
        model: the graph that was captured of it, which computes the same with the same parameters.
    """

    module: nn.Module
    model: CapturedModel
    info: ModelInfo
    inventory: Inventory
    task: Task = CLASSIFICATION

    def of_module(self, module: nn.Module) -> Subject:
        """The same with a module of other widths."""
        size = self.info.data_config["input_size"]
        image = torch.zeros(1, *size).to(next(module.parameters()).device)
        model = captured(module, image)
        return replace(self, module=module, model=model, inventory=take_inventory(model, image))

    def scaled(self, images: Tensor) -> Subject:
        """The same with the scale of its outputs on ``images`` ``(N, C, H, W)``, where its task has one."""
        return replace(self, task=scaled(self.task, self.model, images))

    def judged_by(self, loss: Loss | None, images: Tensor) -> Subject:
        """The same with errors measured by a loss of the user's, which is tried on ``images`` ``(N, C, H, W)`` first.

        Raises:
            PmqError: it cannot be used, see :func:`pmq.quant.custom_loss.check_loss`.
        """
        if loss is None:
            return self
        with torch.no_grad():
            check_loss(loss, self.model(images[:4].to(next(self.model.parameters()).device)))
        message(f"errors are measured by {loss_name(loss)}(reference, output)")
        return replace(self, task=replace(self.task, loss=loss))

    @classmethod
    def of(
        cls,
        model: nn.Module | str | None,
        device: str | torch.device | None = None,
        images: Tensor | None = None,
        crop_pct: float | None = None,
        task: str = AUTO,
        like: Allocation | None = None,
        data_config: Mapping[str, Any] | None = None,
    ) -> Subject:
        """Copy a module the user has, or create one by timm's name (the embedded one without).

        On ``images`` ``(N, C, H, W)``, as the model will see them, its outputs must be finite; without any, they are as large
        as those of ``like``, an allocation that must be of a model of the same name. ``crop_pct`` is how they were cropped,
        where that is not what the model's data config says, and ``data_config`` how they were prepared, where the model
        does not say, or otherwise; if nobody does, that of ``like`` counts. ``task`` is what its outputs mean, see
        :class:`pmq.core.task.Task`.

        Raises:
            PmqError: the model cannot be taken in, or cannot take such images, or has nothing to quantize.
        """
        module, image, output = _taken_in(model, device, images, None if like is None else like.model, like)
        prepare_as(module, _preparation(module, data_config, like))
        meant = set_task(module, output, task)
        info = model_info(module, image.shape[1:])
        if crop_pct is not None:
            info = info.model_copy(update={"data_config": info.data_config | {"crop_pct": crop_pct}})
        model = captured(module, image)
        check_captured(module, model, image if images is None else images)
        inventory = take_inventory(model, image)
        if not inventory.components:
            raise PmqError(
                f"model {info.name!r} has no component that can be quantized; it has no layers that multiply by weights"
            )
        return cls(module, model, info, inventory, meant)


def _preparation(module: nn.Module, asked: Mapping[str, Any] | None, like: Allocation | None) -> Mapping[str, Any]:
    """How images are prepared, where that is not what the module says."""
    if asked is not None:
        return asked
    told = {} if like is None else like.model.data_config
    return {} if says_preparation(module) else {n: told[n] for n in ("mean", "std", "interpolation", "crop_pct") if n in told}


def take_in(
    model: nn.Module,
    device: str | torch.device | None = None,
    images: Tensor | None = None,
    like: ModelInfo | None = None,
) -> nn.Module:
    """Copy a module as :meth:`Subject.of` does, with the same demands on it."""
    return _taken_in(model, device, images, like)[0]


def _taken_in(
    model: nn.Module | str | None,
    device: str | torch.device | None,
    images: Tensor | None,
    like: ModelInfo | None,
    of: Allocation | None = None,
) -> tuple[nn.Module, Tensor, Tensor]:
    """Give the copy, an image ``(1, C, H, W)`` for it, and its output for that."""
    size = _told_size(like)
    image = images[:1] if images is not None else torch.zeros(1, *size) if size else None
    module = create_model(model) if model is None or isinstance(model, str) else adopt(model, image)
    if of is not None:
        of.check_name(model_name(module))
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
        raise PmqError(f"device {str(device)!r} cannot be used: {one_line(error)}; try --device cpu") from None


def _told_size(like: ModelInfo | None) -> list[int] | None:
    size = None if like is None else like.data_config.get("input_size")
    fits = isinstance(size, list) and len(size) == 3 and all(isinstance(side, int) and 0 < side <= _MOST for side in size)
    return size if fits else None


def _output(module: nn.Module, image: Tensor) -> Tensor:
    """What a model gives for an image; where it cannot take it, the error tells for which it was built, if for others."""
    try:
        return pick_output(module, image)
    except PmqError as error:
        built, found = input_size(module), list(image.shape[1:])
        raise PmqError(f"{error}; it was built for {tuple(built)}" if built != found else str(error)) from None


#: images to calibrate on, and further ones to measure and to judge on, where nobody says
CALIB_IMAGES, HELD_OUT = 32, 256
#: images to measure sensitivity on; more change nothing that can be told from noise
PROBED = 64


def divide_images(images: Tensor, calib_images: int, held_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """Divide into images to calibrate on, to measure sensitivity on, and to judge candidates on.

    Nobody may look twice at the same images: errors of what was fitted to an image look small on it. A third of the held
    out ones, or ``PROBED``, measure; a third of all calibrates if they are few.
    """
    if len(images) < 8:
        raise PmqError(f"{len(images)} images are too few to calibrate, to measure and to judge on; pass at least 8")
    if len(images) < calib_images + held_out:
        calib_images = min(calib_images, len(images) // 3)
    others = images[calib_images : calib_images + held_out]
    probed = min(PROBED, len(others) // 3)
    if not probed or len(others) - probed < 4:
        raise PmqError(f"{len(others)} held-out images are too few to measure and to judge on; pass at least 6")
    return images[:calib_images], others[:probed], others[probed:]
