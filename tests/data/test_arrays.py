"""Images of other than one or three channels: arrays in .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmq.core import ModelInfo, PmqError
from pmq.core.array import load_array
from pmq.data import open_data
from pmq.runtimes.images import load_image
from pmq.runtimes.labels import Preprocess

MEAN, STD = (0.1, 0.2, 0.3, 0.4), (0.5, 0.4, 0.3, 0.2)
CONFIG = {"input_size": [4, 6, 5], "mean": MEAN, "std": STD, "interpolation": "bicubic", "crop_pct": 1.0}
INFO = ModelInfo(name="m", num_classes=2, weights_sha256="", data_config=CONFIG)
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (6, 5, 4)).astype(np.uint8)
VALUES = {"8": BYTES, "16": (BYTES.astype(np.uint16) << 8) + 7, "float": BYTES / 255}


@pytest.mark.parametrize("kind", list(VALUES))
def test_values_are_normalised_alike_in_calibration_and_in_files(kind: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", VALUES[kind])
    path = tmp_path / "a" / "x.npy"
    (tmp_path / "a" / "preview.png").write_bytes(b"a picture beside it")
    images, labels = next(open_data(str(tmp_path), INFO.model_copy(update={"num_classes": 2})).evaluation.batches(4))
    wanted = (BYTES / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(images.numpy(), np.stack([wanted.transpose(2, 0, 1)] * 2), atol=1e-5)
    assert labels.tolist() == [0, 1]
    told = Preprocess(**{**CONFIG, "input_size": (4, 6, 5)}, num_classes=2)  # type: ignore[arg-type]
    np.testing.assert_allclose(load_image(path, told), images[:1].numpy(), atol=1e-5)
    raw = told.model_copy(update={"values": "uint8", "layout": "nhwc"})
    if kind == "float":
        with pytest.raises(PmqError, match="it holds floats, and the file takes 8-bit values"):
            load_image(path, raw)
    else:
        assert (load_image(path, raw) == BYTES[None]).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            np.zeros((5, 6, 4), np.uint8),
            r"it holds \(5, 6, 4\); the model takes arrays \(height, width, channels\) of \(6, 5, 4\)",
        ),
        (np.zeros((6, 5, 4), np.int32), "its values are int32"),
        (np.full((6, 5, 4), np.nan), "not all finite"),
        (np.array([[[{}] * 4] * 5] * 6), "no array that numpy can read"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "no array that numpy can read"),
        (b"", "no array that numpy can read"),
    ],
)
def test_what_is_no_such_image_is_told(content: np.ndarray | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(OSError, match=said):
        load_array(path, (4, 6, 5))
    told = Preprocess(**{**CONFIG, "input_size": (4, 6, 5)}, num_classes=2)  # type: ignore[arg-type]
    with pytest.raises(PmqError, match=f"x.npy' cannot be read: .*{said}"):
        load_image(path, told)


def test_pictures_are_not_taken_for_arrays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"x")
    with pytest.raises(PmqError, match=r"no \.npy files below"):
        open_data(str(tmp_path), INFO)
    told = Preprocess(**{**CONFIG, "input_size": (4, 6, 5)}, num_classes=2)  # type: ignore[arg-type]
    with pytest.raises(PmqError, match=r"images of 4 channels are \.npy files"):
        load_image(tmp_path / "a" / "x.png", told)
    with pytest.raises(PmqError, match="mean has 3 values and std 4; pass one value per channel"):
        open_data(str(tmp_path), INFO.model_copy(update={"data_config": {**CONFIG, "mean": (0.1, 0.2, 0.3)}}))
