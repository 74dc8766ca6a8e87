"""Images as users hand them: tensors or batches, of whatever floating-point type, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pmq.core.errors import PmqError
from pmq.core.progress import message

#: what images and labels are called in batches that hold them by name, as those of Hugging Face do
_IMAGES, _LABELS = ("pixel_values", "images", "image"), ("labels", "label")


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
