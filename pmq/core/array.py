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
    """Ends of names, in lower case and with their dot, of files that hold images of so many channels."""
    return extensions() if channels in PICTURES else frozenset({ARRAY})


def unit_values(image: NDArray[Any]) -> NDArray[np.float32]:
    """Values of which 1 is what 255 is of 8 bits: 8-bit ones divided, floats as they are."""
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image


def decoded_array(content: bytes, size: Sequence[int]) -> NDArray[Any]:
    """Read an image ``(H, W, C)`` of 8-bit values from 0 to 255, or of FP32 ones, from the bytes of a ``.npy`` file.

    Of 16 bits the upper eight are kept, as of pictures. Nothing is resized: pictures are, but nobody knows how channels are
    mixed that are no colours.

    Args:
        content: what the file holds.
        size: ``(C, H, W)`` of the model's images.

    Raises:
        OSError: it is no such file, or holds something else, or an image of another size.
    """
    channels, height, width = size
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (*DAMAGED, MemoryError, RecursionError) as error:
        raise OSError(f"it is no array that numpy can read: {one_line(error)}") from None
    if not isinstance(values, np.ndarray) or values.shape != (height, width, channels):
        found = getattr(values, "shape", type(values).__name__)
        raise OSError(f"it holds {found}; the model takes arrays (height, width, channels) of {(height, width, channels)}")
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f":
        raise OSError(f"its values are {values.dtype}; give uint8, uint16, or floats of which 1 is what 255 is of 8 bits")
    if not bool(np.isfinite(values).all()):
        raise OSError("its values are not all finite")
    return values.astype(np.float32)


def load_array(path: str | Path, size: Sequence[int]) -> NDArray[np.float32]:
    """Read an image ``(H, W, C)`` from a file, with 1 for what is 255 of 8 bits.

    Raises:
        OSError: see :func:`decoded_array`.
    """
    if not Path(path).is_file():
        raise OSError("it is no regular file")
    return unit_values(decoded_array(Path(path).read_bytes(), size))
