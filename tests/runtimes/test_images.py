"""Images reach a deployed file as timm prepares them; what is no image, or too much of one, is told."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pmq.core import PmqError
from pmq.core.allocation import ModelInfo
from pmq.data.folder import Preprocess
from pmq.runtimes.images import load_image
from pmq.runtimes.labels import Preprocess as Told
from pmq.runtimes.labels import described, read_description

CONFIG = {"interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
COLOUR = Told(input_size=(3, 8, 8), num_classes=2, **CONFIG | {"mean": (0.5,) * 3, "std": (0.5,) * 3})


def picture(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((300, 201), (3, 96, 96)),
        ((77, 150), (3, 64, 64)),
        ((64, 64), (1, 28, 28)),
        ((90, 61), (3, 48, 33)),
        ((20, 90), (3, 33, 48)),
    ],
)
@pytest.mark.parametrize(
    ("interpolation", "crop_mode"),
    [
        *(("bicubic", "center"), ("bilinear", "center"), ("lanczos", "center"), ("nearest", "center")),
        *(("bicubic", "squash"), ("bicubic", "border")),
    ],
)
def test_images_are_prepared_as_for_training(
    size: tuple[int, int], wanted: tuple[int, int, int], interpolation: str, crop_mode: str, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    picture(size).save(path)
    config: dict[str, Any] = CONFIG | {"input_size": list(wanted), "interpolation": interpolation, "crop_mode": crop_mode}
    if wanted[0] == 1:
        config |= {"mean": [0.3], "std": [0.2]}
    info = ModelInfo(name="m", num_classes=2, weights_sha256="", data_config=config)
    with Image.open(path) as image:
        expected = Preprocess(info, None)(image).numpy()
    description = read_description(described(config, 2, ["a", "b"]), path)
    np.testing.assert_allclose(load_image(path, description.preprocess)[0], expected, atol=1e-5)


def encoded(form: str, size: tuple[int, int] = (30, 20)) -> bytes:
    buffer = io.BytesIO()
    picture(size).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an image of a known format"),
        (b"no image", "not an image of a known format"),
        (encoded("PNG")[:200], "cannot be read: "),
        (encoded("JPEG")[:200], "cannot be read: "),
        (encoded("BMP").replace(b"\x1e\x00\x00\x00\x14", b"\xff\xff\xff\x7f\x14", 1), "too large to be read"),
        (b"P6 99999 99999 255 ", "too large to be read"),
        (b"P6 0 0 255 ", "cannot be read"),
        (b"P6 9 9", "cannot be read"),
        (b"DDS |\x00\x00\x00" + bytes(120), "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image of a known format"),
        (encoded("PNG", (1, 20_000)), "1 x 20000, which would be 8 x 160000"),
    ],
)
def test_what_is_no_image_is_told(
    content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(PmqError, match=said) as refused:
        load_image(path, COLOUR)
    assert "image.png" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(recwarn)


def test_an_image_beyond_the_limit_is_told_rather_than_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded("PNG", (50, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow itself refuses only the double
    with pytest.raises(PmqError, match="at most 1000 pixels"):
        load_image(path, COLOUR)


def test_what_is_no_file_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, said in (
        (tmp_path / "pipe.jpg", "a folder or a pipe"),
        (tmp_path, "a folder or a pipe"),
        (tmp_path / "x", "exist"),
    ):
        with pytest.raises(PmqError, match=said):
            load_image(path, COLOUR)
