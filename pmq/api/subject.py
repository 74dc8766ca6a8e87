"""What a command works on: a model with its description, components and images."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.allocation import ModelInfo
from pmq.core.component import Inventory
from pmq.core.errors import PmqError, one_line
from pmq.core.progress import message
from pmq.core.task import AUTO, CLASSIFICATION, Task
from pmq.models import create_model, model_info, take_inventory
from pmq.models.outputs import scaled


@dataclass(frozen=True)
class Subject:
    """A model and what is known of it."""

    model: nn.Module
    info: ModelInfo
    inventory: Inventory
    task: Task = CLASSIFICATION

    def of_module(self, module: nn.Module) -> Subject:
        """The same with a module of other widths."""
        size = self.info.data_config["input_size"]
        image = torch.zeros(1, *size).to(next(module.parameters()).device)
        return replace(self, model=module, inventory=take_inventory(module, image))

    def scaled(self, images: Tensor) -> Subject:
        """The same with the scale of its outputs on ``images`` ``(N, C, H, W)``, where its task has one."""
        return replace(self, task=scaled(self.task, self.model, images))

    @classmethod
    def of(
        cls,
        model: nn.Module | str | None,
        device: str | torch.device | None = None,
        image: Tensor | None = None,
        crop_pct: float | None = None,
        task: str = AUTO,
    ) -> Subject:
        """Copy a module the user has, or create one by timm's name (the embedded one without).

        ``image`` ``(1, C, H, W)`` is one as the model will see them; ``crop_pct`` is how they were cropped, where that is
        not what the model's data config says. ``task`` is what its outputs mean, see :class:`pmq.core.task.Task`.
        """
        module = copy.deepcopy(model) if isinstance(model, nn.Module) else create_model(model)
        module = module.eval()
        if device is not None:
            try:
                module = module.to(device)
            except (RuntimeError, AssertionError) as error:
                raise PmqError(f"device {str(device)!r} cannot be used: {error}; try --device cpu") from None
        info = model_info(module)
        if crop_pct is not None:
            info = info.model_copy(update={"data_config": info.data_config | {"crop_pct": crop_pct}})
        image = torch.zeros(1, *info.data_config["input_size"]) if image is None else image
        try:
            inventory = take_inventory(module, image.to(next(module.parameters()).device))
        except (RuntimeError, AssertionError) as error:
            expected, found = tuple(info.data_config["input_size"]), tuple(image.shape[1:])
            raise PmqError(
                f"model {info.name!r} cannot take images of shape {found}, it expects {expected}: {one_line(error)}"
            ) from None
        meant = Task.of(task, info.num_classes)
        if task == AUTO and meant.name == "binary":
            message("the model's one output is taken for the logit of a decision; --task regression if it is a value")
        if not inventory.components:
            raise PmqError(f"model {info.name!r} has no component that can be quantized; ViT, DeiT and Swin have")
        for line in inventory.uncovered:
            message(f"stays FP32: {line}")
        return cls(module, info, inventory, meant)


def gather_images(images: Tensor | Iterable[Any], count: int) -> Tensor:
    """Collect the first ``count`` images (all, if fewer) from a tensor or from batches, with or without labels.

    Raises:
        PmqError: there are none, or they are no batches of images.
    """
    if isinstance(images, Tensor):
        batches: Iterable[Any] = [images]
    else:
        batches = images
    kept: list[Tensor] = []
    for batch in batches:
        x = batch[0] if isinstance(batch, list | tuple) else batch
        if not isinstance(x, Tensor) or x.ndim != 4:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise PmqError(f"images must come as tensors (B, C, H, W) or (tensor, labels) pairs, not {found}")
        kept.append(x)
        if sum(map(len, kept)) >= count:
            break
    if not kept:
        raise PmqError("no images were given; pass at least 8")
    return torch.cat(kept)[:count]


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
