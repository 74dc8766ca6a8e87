"""Image files read by Pillow as pictures with 8 bits per channel; files that cannot be read raise an OSError."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from pmq.core.errors import one_line

#: exceptions that Pillow's decoders raise on damaged files
DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
#: formats that Pillow does not decode itself, but only identifies or passes to another program
FOREIGN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def extensions() -> frozenset[str]:
    """Return the suffixes, in lower case with their dot, of files that Pillow decodes."""
    return frozenset(end for end, name in Image.registered_extensions().items() if name in Image.OPEN and name not in FOREIGN)


@contextmanager
def refusing() -> Iterator[None]:
    """Context in which Pillow's warnings about a picture are errors; pictures above Pillow's size limit are refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def open_picture(path: str | Path) -> Image.Image:
    """Open an image file; the caller closes it.

    Raises:
        OSError: it is no regular file (reading a pipe would wait forever), or it is damaged.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError("it is no regular file")
    return _opened(path)


def picture_of(content: bytes) -> Image.Image:
    """Open the bytes of an image file; the caller closes it.

    Raises:
        OSError: it is damaged.
    """
    return _opened(io.BytesIO(content))


def _opened(source: str | Path | io.BytesIO) -> Image.Image:
    try:
        with refusing():
            return Image.open(source)
    except DAMAGED as error:
        raise _unreadable(error) from None


def converted(image: Image.Image, mode: str) -> Image.Image:
    """Decode a picture, or the first frame of an animation; of 16-bit values the upper eight bits are kept.

    Raises:
        OSError: the picture is damaged, or its values have no defined range, so that white is unknown.
    """
    try:
        with refusing():
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"values of mode {image.mode} have no known range; save it with 8 bits a channel")
            return image.convert(mode)
    except DAMAGED as error:
        raise _unreadable(error) from None


def _unreadable(error: BaseException) -> OSError:
    return error if isinstance(error, OSError) else OSError(one_line(error))
