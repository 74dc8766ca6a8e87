"""A deployed file sees a picture of 16 bits as the model did that it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pmq.core import PmqError
from pmq.core.allocation import ModelInfo
from pmq.core.picture import open_picture
from pmq.data.folder import Preprocess
from pmq.runtimes.images import load_image
from pmq.runtimes.labels import Preprocess as Told

CONFIG = {"input_size": (1, 8, 8), "interpolation": "bicubic", "crop_pct": 1.0, "mean": (0.5,), "std": (0.5,)}


def test_sixteen_bits_are_the_same_to_both(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)).save(path)
    with open_picture(path) as image:
        expected = Preprocess(ModelInfo(name="m", num_classes=2, weights_sha256="", data_config=CONFIG), None)(image)
    found = load_image(path, Told(**CONFIG, num_classes=2))[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert np.ptp(found) > 1.9


def test_values_without_a_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.ones((8, 8), np.float32)).save(path)
    with pytest.raises(PmqError, match="no known range"):
        load_image(path, Told(**CONFIG, num_classes=2))
