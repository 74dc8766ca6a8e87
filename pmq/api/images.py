"""Images as users hand them: tensors or batches, of whatever floating-point type, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.progress import message
from pmq.data import Data, open_data
from pmq.data.classes import ORDERS, ClassRule
from pmq.models import class_names, create_model, model_info
from pmq.models.prepared import prepared_config

#: what images and labels are called in batches that hold them by name, as those of Hugging Face do
_IMAGES, _LABELS = ("pixel_values", "images", "image"), ("labels", "label")


def open_images(
    data: str | Path,
    model: nn.Module | str | None,
    *,
    split: str | None = None,
    data_config: Mapping[str, Any] | None = None,
    class_map: str | Path | None = None,
    class_order: str = ORDERS[0],
    workers: int = 0,
) -> Data:
    """Open images as the command line does: prepared for a model, their classes told by its names, a map, or their order.

    Args:
        data: a folder, a table, an archive or a dataset, see :func:`pmq.data.open_data`.
        model: whose images they are to be: a module, or a name.
        split: folder or split to evaluate on.
        data_config: how images are prepared, where the model does not say, or otherwise.
        class_map: see :func:`pmq.data.classes.read_class_map`.
        class_order: of folders that no name tells of, ``imagefolder`` or ``natural``.
        workers: processes that read ahead.

    Returns:
        Two sources, ``calibration`` and ``evaluation``, which may be one; ``calibration_images`` draws from the former,
        ``evaluation.batches(32)`` gives ``(images, labels)``.

    Raises:
        PmqError: there is nothing there, or nobody says how images are prepared.
    """
    module = create_model(model) if model is None or isinstance(model, str) else model
    info = model_info(module)
    config = prepared_config(info.data_config, data_config or {}, info.data_config["input_size"][0])
    rule = ClassRule(tuple(class_names(module)), None if class_map is None else Path(class_map), class_order)
    return open_data(str(data), info.model_copy(update={"data_config": config}), split, None, workers, rule)


def as_images(images: Any) -> Tensor:
    """Give a batch ``(B, C, H, W)`` in FP32 that gradients can be taken with.

    Raises:
        PmqError: it is none, or not preprocessed, or its values are not finite.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise PmqError(
            f"images must come as tensors (B, C, H, W), pairs (tensor, labels) or dictionaries with pixel_values, not {found}"
        )
    if not images.is_floating_point():
        met = str(images.dtype).removeprefix("torch.")
        raise PmqError(f"images are {met}, so not preprocessed; give them as floats, scaled and normalised as for the model")
    images = images.detach().float()
    if not images.isfinite().all():
        raise PmqError("images hold NaN or infinite values; check how they are preprocessed")
    return images.clone() if images.is_inference() else images


def first_of(batch: Any) -> Any:
    """The images of a batch, which may be a pair of images and labels, or hold them by a name."""
    if isinstance(batch, Mapping):
        return next((batch[name] for name in _IMAGES if name in batch), batch)
    return batch[0] if isinstance(batch, list | tuple) and batch else batch


def _labels_of(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return next((batch[name] for name in _LABELS if name in batch), None)
    return batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None


def tell_type(images: Any) -> None:
    """Say that images are taken as FP32, where they are something else."""
    if isinstance(images, Tensor) and images.is_floating_point() and images.dtype != torch.float32:
        message(f"images are {str(images.dtype).removeprefix('torch.')}: taken as FP32")


def gather_images(images: Tensor | Iterable[Any], count: int) -> Tensor:
    """Collect the first ``count`` images (all, if fewer) from a tensor or from batches, with or without labels.

    Raises:
        PmqError: there are none, or they are no batches of images, or not all of one shape.
    """
    batches: Iterable[Any] = [images] if isinstance(images, Tensor) else images
    kept: list[Tensor] = []
    for batch in batches:
        if not kept:
            tell_type(first_of(batch))
        kept.append(as_images(first_of(batch)).cpu())
        if kept[-1].shape[1:] != kept[0].shape[1:]:
            shapes = f"{tuple(kept[0].shape[1:])} and {tuple(kept[-1].shape[1:])}"
            raise PmqError(f"images are of shapes {shapes}; give them all in the one that the model takes")
        if sum(map(len, kept)) >= count:
            break
    if not kept:
        raise PmqError("no images were given; pass at least 8")
    return torch.cat(kept)[:count]


def pairs(batches: Iterable[Any]) -> tuple[Tensor, Iterator[tuple[Tensor, Tensor | None]]]:
    """Give the first image ``(1, C, H, W)`` of batches, and all of them as pairs of images and labels.

    Raises:
        PmqError: there are none, or they are no batches of images; of later ones, when they are reached.
    """
    going = map(_pair, batches.split(32) if isinstance(batches, Tensor) and batches.ndim else batches)
    first = next(going, None)
    if first is None or not len(first[0]):
        raise PmqError("no images were given to evaluate on")
    return first[0][:1], chain([first], going)


def _pair(batch: Any) -> tuple[Tensor, Tensor | None]:
    return as_images(first_of(batch)), _labels_of(batch)
