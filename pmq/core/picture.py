"""Image files as pictures of 8 bits a channel, read by Pillow, or refused as an OSError that says why."""

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

#: what Pillow's decoders were shown to raise on damaged files
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
#: formats whose pictures Pillow does not decode itself: it knows them by name, or hands them to another program
FOREIGN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def extensions() -> frozenset[str]:
    """Ends of names, in lower case and with their dot, of files that Pillow decodes."""
    return frozenset(end for end, name in Image.registered_extensions().items() if name in Image.OPEN and name not in FOREIGN)


@contextmanager
def refusing() -> Iterator[None]:
    """Within it a picture is decoded or refused, and nothing of it is merely warned of; one above Pillow's limit is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def open_picture(path: str | Path) -> Image.Image:
    """Open an image file, to be closed by who opens it.

    Raises:
        OSError: it is no regular file (reading a pipe would wait forever), or it is damaged.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError("it is no regular file")
    return _opened(path)


def picture_of(content: bytes) -> Image.Image:
    """Open the bytes of an image file, to be closed by who opens it.

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
    """Decode a picture, the first one of an animation; of 16 bits the upper eight are kept, as Pillow does it in colour.

    Raises:
        OSError: it is damaged, or its values have no range, so that nobody knows what is white.
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
