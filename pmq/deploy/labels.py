"""What a model file tells of its images and classes, and images as it wants them. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pmq.core.errors import PmqError

#: keys of what is kept in a file
TARGET, PREPROCESS, CLASSES = "pmq.target", "pmq.preprocess", "pmq.classes"
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}


def described(data_config: Mapping[str, Any], num_classes: int, classes: list[str]) -> dict[str, str]:
    """Texts to keep in a file."""
    keys = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    return {
        PREPROCESS: json.dumps({k: data_config.get(k) for k in keys} | {"num_classes": num_classes}),
        CLASSES: json.dumps(classes),
    }


def read_description(metadata: Mapping[str, str], path: Path) -> tuple[dict[str, Any], list[str]]:
    """Preprocessing and class names of a file.

    Raises:
        PmqError: the file tells of neither.
    """
    if PREPROCESS not in metadata:
        raise PmqError(f"{str(path)!r} does not tell how its images are prepared: it was not written by pmq deploy")
    return json.loads(metadata[PREPROCESS]), json.loads(metadata.get(CLASSES, "[]"))


def load_image(path: Path, preprocess: Mapping[str, Any]) -> NDArray[np.float32]:
    """Read an image ``(1, C, H, W)``: its shorter side resized, its middle cut out, normalised.

    Raises:
        PmqError: it cannot be read.
    """
    channels, height, width = preprocess["input_size"]
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise PmqError(f"image {str(path)!r} cannot be read: {error}") from None
    # As torchvision does it: the shorter side to the size over the crop, rounded down; margins rounded to the nearest.
    size = int(np.floor(min(height, width) / preprocess["crop_pct"]))
    short = min(image.size)
    shape = (int(size * image.width / short), int(size * image.height / short))
    if preprocess.get("crop_mode") == "squash":  # both sides, whatever becomes of the aspect
        shape = (int(width / preprocess["crop_pct"]), int(height / preprocess["crop_pct"]))
    resized = image.resize(shape, FILTERS.get(preprocess["interpolation"], FILTERS["bicubic"]))
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    cut = resized.crop((left, top, left + width, top + height))
    values = np.asarray(cut, np.float32).reshape(height, width, channels) / 255
    values = (values - np.float32(preprocess["mean"])) / np.float32(preprocess["std"])
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])
