"""Images of other than one or three channels: arrays in ``.npy`` files, of the model's own size. No torch here."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmq.core.errors import one_line
from pmq.core.picture import DAMAGED, extensions

ARRAY = ".npy"
#: channels of images that are pictures
PICTURES = (1, 3)


def ends_of(channels: int) -> frozenset[str]:
    """Return the suffixes, in lower case with their dot, of files that hold images of so many channels."""
    return extensions() if channels in PICTURES else frozenset({ARRAY})


def unit_values(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return values scaled to 1 for 255: 8-bit values are divided, floats are returned as they are."""
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image


def decoded_array(content: bytes, size: Sequence[int]) -> NDArray[Any]:
    """Read an image ``(H, W, C)`` of 8-bit values from 0 to 255, or of FP32 ones, from the bytes of a ``.npy`` file.

    Of 16-bit values the upper eight bits are kept, as for pictures. Arrays are not resized: unlike for colours, the right
    interpolation between channels is unknown.

    Args:
        content: content of the file.
        size: size ``(C, H, W)`` of the model's images.

    Raises:
        OSError: the content is no ``.npy`` file, or holds no image of this size.
    """
    channels, height, width = size
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (*DAMAGED, MemoryError, RecursionError) as error:
        raise OSError(f"it is no array that numpy can read: {one_line(error)}") from None
    if not isinstance(values, np.ndarray) or values.shape != (height, width, channels):
        shape = getattr(values, "shape", type(values).__name__)
        raise OSError(f"it holds {shape}; the model takes arrays (height, width, channels) of {(height, width, channels)}")
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f":
        raise OSError(f"its values are {values.dtype}; give uint8, uint16, or floats scaled so that 1 is 255 of uint8")
    if not bool(np.isfinite(values).all()):
        raise OSError("its values are not all finite")
    return values.astype(np.float32)


def load_array(path: str | Path, size: Sequence[int]) -> NDArray[np.float32]:
    """Read an image ``(H, W, C)`` from a file, scaled so that 1 is 255 of uint8.

    Raises:
        OSError: see :func:`decoded_array`.
    """
    if not Path(path).is_file():
        raise OSError("it is no regular file")
    return unit_values(decoded_array(Path(path).read_bytes(), size))
