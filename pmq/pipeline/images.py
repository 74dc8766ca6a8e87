"""Images as users pass them: tensors or batches, of any floating-point type, on any device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pmq.core.errors import PmqError
from pmq.core.progress import message
from pmq.data.image_shards import ImageShards

#: keys of images and labels in dictionary batches, such as those of Hugging Face
_IMAGES, _LABELS = ("pixel_values", "images", "image"), ("labels", "label")


def as_images(images: Any) -> Tensor:
    """Return a batch ``(B, C, H, W)`` in FP32 that autograd accepts.

    Raises:
        PmqError: ``images`` is no batch of images, is not preprocessed, or has values that are not finite.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise PmqError(
            f"images must come as tensors (B, C, H, W), pairs (tensor, labels) or dictionaries with pixel_values, not {shape}"
        )
    if not images.is_floating_point():
        dtype = str(images.dtype).removeprefix("torch.")
        raise PmqError(f"images are {dtype}, so not preprocessed; give them as floats, scaled and normalised as for the model")
    images = images.detach().float()
    if not images.isfinite().all():
        raise PmqError("images hold NaN or infinite values; check how they are preprocessed")
    return images.clone() if images.is_inference() else images


def first_of(batch: Any) -> Any:
    """Return the images of a batch, which may be images alone, a pair of images and labels, or a dictionary."""
    if isinstance(batch, Mapping):
        return next((batch[name] for name in _IMAGES if name in batch), batch)
    return batch[0] if isinstance(batch, list | tuple) and batch else batch


def _labels_of(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return next((batch[name] for name in _LABELS if name in batch), None)
    return batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None


def tell_type(images: Any) -> None:
    """Print that images are converted to FP32, where they have another type."""
    if isinstance(images, Tensor) and images.is_floating_point() and images.dtype != torch.float32:
        message(f"images are {str(images.dtype).removeprefix('torch.')}: taken as FP32")


def gather_images(images: Tensor | Iterable[Any], count: int) -> Tensor:
    """Return the first ``count`` images (all, if fewer) of a tensor or of batches, with or without labels.

    Raises:
        PmqError: there are no images, they are no batches of images, or their shapes differ.
    """
    batches: Iterable[Any] = [images] if isinstance(images, Tensor) else images
    gathered: list[Tensor] = []
    for batch in batches:
        if not gathered:
            tell_type(first_of(batch))
        gathered.append(as_images(first_of(batch)).cpu())
        if gathered[-1].shape[1:] != gathered[0].shape[1:]:
            shapes = f"{tuple(gathered[0].shape[1:])} and {tuple(gathered[-1].shape[1:])}"
            raise PmqError(f"images are of shapes {shapes}; pass all images in the one shape that the model takes")
        if sum(map(len, gathered)) >= count:
            break
    if not gathered:
        raise PmqError("no images were given; pass at least 8")
    return torch.cat(gathered)[:count]


def pairs(batches: Iterable[Any]) -> tuple[Tensor, Iterator[tuple[Tensor, Tensor | None]]]:
    """Return the first image ``(1, C, H, W)`` of batches, and all batches as pairs of images and labels.

    Raises:
        PmqError: there are no images, or a batch is no batch of images; of later batches, when they are reached.
    """
    labelled = map(_pair, batches.split(32) if isinstance(batches, Tensor) and batches.ndim else batches)
    first = next(labelled, None)
    if first is None or not len(first[0]):
        raise PmqError("no images were given to evaluate on")
    return first[0][:1], chain([first], labelled)


def first_and_all(batches: Iterable[Any]) -> tuple[Tensor, Iterable[tuple[Tensor, Tensor | None]] | ImageShards]:
    """Return the first image ``(1, C, H, W)``, and all images as pairs of images and labels, or in shards if they are.

    Raises:
        PmqError: see :func:`pairs`.
    """
    if isinstance(batches, ImageShards):
        return batches.source.first_readable(batches.indices, 1), batches
    return pairs(batches)


def _pair(batch: Any) -> tuple[Tensor, Tensor | None]:
    return as_images(first_of(batch)), _labels_of(batch)
