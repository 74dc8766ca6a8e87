"""Bit-widths of patches as data for report pages, which draw them over the images."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pmq.core.files import write_text
from pmq.core.patches import TokenBits

NAME = "patches.json"
Images = NDArray[np.float32]
#: bit-widths of each image's tokens ``(N, T)``, by activation
Bits = Mapping[str, NDArray[Any]]
#: number of images that are shown side by side
SHOWN = 4


def save_patches(bits: Bits, images: Images, prefix: int, label: str, folder: Path) -> Path:
    """Write the first images and, by activation, the bit-widths of their tokens, one digit per token.

    Args:
        bits: bit-widths of tokens, as for :func:`pmq.reporting.patches.plot_patches`.
        images: ``(N, H, W, C)`` from 0 to 1.
        prefix: number of class and distillation tokens, which precede the patches.
        label: name of the map.
        folder: folder to write to.

    Returns:
        The written file.
    """
    shown = images[:SHOWN]
    content = {
        "label": label,
        "prefix": prefix,
        "images": [_png(image) for image in shown],
        "bits": {name: [TokenBits.of(map(int, row)).bits for row in rows[: len(shown)]] for name, rows in bits.items()},
    }
    return write_text(folder / NAME, json.dumps(content) + "\n")


def _png(image: Images) -> str:
    """Return a picture ``(H, W, C)`` as a Base64 PNG in grey, so that only bit-widths are coloured."""
    buffer = io.BytesIO()
    Image.fromarray((255 * image.mean(axis=2).clip(0, 1)).astype(np.uint8)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()
