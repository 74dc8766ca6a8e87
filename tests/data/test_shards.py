"""Shards of WebDataset's form: samples of a tar archive, each some files of one name."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pmq.core import ModelInfo, PmqError
from pmq.data import open_data
from pmq.data.image_table import TableKeys

CONFIG = {"input_size": [3, 8, 8], "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bicubic", "crop_pct": 1.0}
INFO = ModelInfo(name="m", num_classes=3, weights_sha256="", data_config=CONFIG)


def shard(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, files in samples.items():
            for end, content in files.items():
                member = tarfile.TarInfo(f"{name}.{end}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def picture(level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(file, "png")
    return file.getvalue()


def levels(data: str, **options: object) -> list[tuple[int, int]]:
    """Grey and label of each image that is evaluated on."""
    found = []
    for images, labels in open_data(data, INFO, **options).evaluation.batches(4):  # type: ignore[arg-type]
        found += [(round(255 * float(image.mean())), int(label)) for image, label in zip(images, labels, strict=True)]
    return found


def test_images_have_the_classes_that_lie_beside_them(tmp_path: Path) -> None:
    samples = {f"a/{n}": {"png": picture(10 * n), "cls": f"{n % 3}\n".encode()} for n in range(7)}
    file = shard(tmp_path / "images.tar", samples | {"a/7": {"cls": b"1"}, "a/8": {"png": picture(80)}})
    assert levels(str(file)) == [*((10 * n, n % 3) for n in range(7)), (80, -1)]


def test_classes_in_json_by_name_and_by_another_key(tmp_path: Path) -> None:
    names = ["cat", "dog", "emu"]
    samples = {str(n): {"json": json.dumps({"label": n % 2, "kind": names[n % 3]}).encode(), "png": picture(n)} for n in range(6)}
    samples["6"] = {"png": picture(6), "cls": b"0"}  # by which the archive is known
    file = shard(tmp_path / "images.tar", dict(reversed(samples.items())))
    assert levels(str(file))[1:] == [(n, n % 2) for n in range(5, -1, -1)]
    assert levels(str(file), keys=TableKeys(target="kind"))[1:] == [(n, n % 3) for n in range(5, -1, -1)]


def test_shards_of_a_folder_are_told_apart_by_their_names(tmp_path: Path) -> None:
    for number, name in enumerate(("x-train-0.tar", "x-train-1.tar", "x-val-0.tar")):
        shard(tmp_path / name, {str(n): {"jpg.png": b"", "png": picture(9 * number + n), "cls": b"2"} for n in range(3)})
    data = open_data(str(tmp_path), INFO)
    assert not data.shared
    assert (len(data.calibration), len(data.evaluation)) == (6, 3)
    assert levels(str(tmp_path)) == levels(f"{tmp_path}::wds/x") == [(18, 2), (19, 2), (20, 2)]
    assert [grey for grey, _ in levels(str(tmp_path), split="train")] == [0, 1, 2, 9, 10, 11]
    with pytest.raises(PmqError, match="no shard named after split 'night'"):
        open_data(str(tmp_path), INFO, "night")


def test_what_is_no_shard_is_told(tmp_path: Path) -> None:
    whole = shard(tmp_path / "x.tar", {str(n): {"png": picture(n), "cls": b"9"} for n in range(3)})
    with pytest.raises(PmqError, match="class 9 is not one of the model's 3 outputs"):
        open_data(str(whole), INFO)
    os.mkfifo(tmp_path / "pipe.tar")  # reading it would wait forever
    with pytest.raises(PmqError, match=r"archive '.*pipe\.tar' is not a file"):
        open_data(str(tmp_path / "pipe.tar"), INFO)
    assert len(open_data(str(tmp_path), ModelInfo(**INFO.model_dump() | {"num_classes": 10})).evaluation) == 3
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:2900])
    with pytest.raises(PmqError, match=r"cut\.tar' cannot be read: unexpected end of data; provide an uncompressed"):
        open_data(str(tmp_path / "cut.tar"), INFO)
