"""Preprocessing of images for a model file, equal to that of timm's evaluation; this module does not import torch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pmq.core.array import ARRAY, PICTURES, decoded_array, unit_values
from pmq.core.errors import PmqError, one_line
from pmq.core.files import quoted, read_bytes
from pmq.core.picture import DAMAGED, FOREIGN, converted, refusing
from pmq.runtimes.labels import Preprocess

#: maximum size of an image file, in bytes
MOST = 1 << 30
#: exceptions that image libraries raise for an image that is too large
HUGE = (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError)


def load_image(path: Path, preprocess: Preprocess) -> NDArray[Any]:
    """Read an image as the file takes it, ``(1, C, H, W)`` or ``(1, H, W, C)``: resized, center-cropped, normalized if needed.

    Images of other than one or three channels are arrays (:mod:`pmq.core.array`), which are only normalized.

    Raises:
        PmqError: the image cannot be read, is too large, or is so elongated that resizing it exceeds the pixel limit.
    """
    channels, height, width = preprocess.input_size
    if channels not in PICTURES:
        return _prepared(_array(path, preprocess), preprocess)
    image = _decoded(path, "L" if channels == 1 else "RGB")
    shape = _resized(image.size, preprocess)
    if shape[0] * shape[1] > _most_pixels():
        sizes = f"{image.width} x {image.height}, which would be {shape[0]} x {shape[1]} before the center crop"
        raise PmqError(f"image {quoted(path)} is {sizes}: more than {_most_pixels()} pixels; crop it first")
    resized = image.resize(shape, Image.Resampling[preprocess.interpolation.upper()])
    edge = [round(255 * min(max(v, 0), 1)) if preprocess.crop_mode == "border" else 0 for v in preprocess.mean]
    cut = Image.new(resized.mode, (width, height), edge[0] if channels == 1 else tuple(edge))
    cut.paste(resized, (_offset(width, resized.width), _offset(height, resized.height)))
    return _prepared(np.asarray(cut, np.uint8).reshape(height, width, channels), preprocess)


def _prepared(image: NDArray[Any], preprocess: Preprocess) -> NDArray[Any]:
    """Normalize an image ``(H, W, C)``, unless the file does so itself, and convert it to the file's layout."""
    values = image[None]
    if preprocess.values == "float":
        values = (unit_values(values) - np.array(preprocess.mean, np.float32)) / np.array(preprocess.std, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if preprocess.layout == "nchw" else values)


def _decoded(path: Path, mode: str) -> Image.Image:
    content = read_bytes(path, "image", most=MOST)
    try:
        with refusing(), Image.open(io.BytesIO(content)) as opened:
            if opened.format in FOREIGN:
                raise UnidentifiedImageError
            image = converted(opened, mode)
    except HUGE:
        raise PmqError(
            f"image {quoted(path)} is too large to be read: at most {_most_pixels()} pixels are allowed; make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise PmqError(f"image {quoted(path)} cannot be read: it is not an image of a known format") from None
    except DAMAGED as error:
        raise PmqError(f"image {quoted(path)} cannot be read: {one_line(error)}") from None
    if 0 in image.size:
        raise PmqError(f"image {quoted(path)} cannot be read: it has no pixels")
    return image


def _array(path: Path, preprocess: Preprocess) -> NDArray[Any]:
    if path.suffix.lower() != ARRAY:
        channels = preprocess.input_size[0]
        raise PmqError(f"image {quoted(path)} cannot be read: images of {channels} channels are {ARRAY} files; pass one")
    try:
        values = decoded_array(read_bytes(path, "image", most=MOST), preprocess.input_size)
    except OSError as error:
        raise PmqError(f"image {quoted(path)} cannot be read: {one_line(error)}") from None
    if preprocess.values == "uint8" and values.dtype != np.uint8:
        raise PmqError(f"image {quoted(path)} cannot be read: it holds floats, and the file takes 8-bit values; pass uint8")
    return values


def _most_pixels() -> int:
    """Return the maximum number of pixels of an image: the limit of Pillow."""
    return Image.MAX_IMAGE_PIXELS or 1 << 27


def _resized(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Return the width and height to which an image of width and height ``size`` is resized before the center crop."""
    _, height, width = preprocess.input_size
    wide, high = int(width / preprocess.crop_pct), int(height / preprocess.crop_pct)
    if preprocess.crop_mode == "squash":  # both sides, ignoring the aspect ratio
        return wide, high
    if preprocess.crop_mode == "border":  # the whole image, with a border where it is narrower
        ratio = max(size[0] / wide, size[1] / high)
    elif wide != high:
        ratio = min(size[0] / wide, size[1] / high)
    else:  # the shorter side becomes the size divided by the crop, the other is rounded down
        short = min(size)
        return int(wide * size[0] / short), int(high * size[1] / short)
    return max(round(size[0] / ratio), 1), max(round(size[1] / ratio), 1)


def _offset(side: int, length: int) -> int:
    """Return where an image of ``length`` begins in a frame of ``side``: margins round half to even, borders round down."""
    return -round((length - side) / 2) if length >= side else (side - length) // 2
