from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pmq.core import PmqError
from pmq.core.allocation import ModelInfo
from pmq.data.folder import Preprocess
from pmq.deploy.labels import described, load_image, read_description

CONFIG = {"interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(("size", "wanted"), [((300, 201), (3, 96, 96)), ((77, 150), (3, 64, 64)), ((64, 64), (1, 28, 28))])
@pytest.mark.parametrize(("interpolation", "crop_mode"), [("bicubic", "center"), ("bilinear", "center"), ("bicubic", "squash")])
def test_images_are_prepared_as_for_training(size, wanted, interpolation, crop_mode, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(values).save(path)
    config = CONFIG | {"input_size": list(wanted), "interpolation": interpolation, "crop_mode": crop_mode}
    if wanted[0] == 1:
        config |= {"mean": [0.3], "std": [0.2]}
    info = ModelInfo(name="m", num_classes=2, weights_sha256="", data_config=config)
    with Image.open(path) as image:
        expected = Preprocess(info, None)(image).numpy()
    preprocess, classes = read_description(described(config, 2, ["a", "b"]), path)
    assert classes == ["a", "b"]
    np.testing.assert_allclose(load_image(path, preprocess)[0], expected, atol=1e-5)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_text("no image")
    with pytest.raises(PmqError, match=r"image.png.*cannot be read"):
        load_image(path, CONFIG | {"input_size": [3, 8, 8]})
    with pytest.raises(PmqError, match="not written by pmq deploy"):
        read_description({}, path)
