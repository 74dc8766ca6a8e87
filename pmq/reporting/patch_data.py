"""Bits of patches as data, for pages that draw them over the images themselves."""

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
#: bits of each image's tokens ``(N, T)``, by activation
Bits = Mapping[str, NDArray[Any]]
#: images side by side
SHOWN = 4


def save_patches(bits: Bits, images: Images, prefix: int, label: str, folder: Path) -> Path:
    """Write the first images and the bits of their tokens, a digit each, by activation.

    Args:
        bits: as :func:`pmq.reporting.patches.plot_patches` takes them.
        images: ``(N, H, W, C)`` from 0 to 1.
        prefix: tokens that are no patches.
        label: of the map.
        folder: to write to.
    """
    shown = images[:SHOWN]
    said = {
        "label": label,
        "prefix": prefix,
        "images": [_png(image) for image in shown],
        "bits": {name: [TokenBits.of(map(int, row)).bits for row in found[: len(shown)]] for name, found in bits.items()},
    }
    return write_text(folder / NAME, json.dumps(said) + "\n")


def _png(image: Images) -> str:
    """Base64 of a picture ``(H, W, C)`` in grey, so that colours are those of bits."""
    buffer = io.BytesIO()
    Image.fromarray((255 * image.mean(axis=2).clip(0, 1)).astype(np.uint8)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()
