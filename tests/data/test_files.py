"""Image folders as people have them: other formats, other files, and what is no file at all."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from pmq.core import ModelInfo, PmqError
from pmq.core.picture import converted, extensions, open_picture
from pmq.data import open_data
from pmq.data.classes import ClassRule, number_classes
from pmq.data.files import find_images
from pmq.data.folder import ImageTree, Preprocess
from pmq.data.source import ImageSource

CONFIG = {"input_size": [3, 8, 8], "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "nearest", "crop_pct": 1.0}
INFO = ModelInfo(name="m", num_classes=2, weights_sha256="", data_config=CONFIG)
AS_TIMM = Preprocess(INFO, None)
#: of a picture that any format keeps: black above, white below
PICTURE = Image.fromarray(np.repeat(np.uint8([0, 255]), 32).reshape(8, 8))
EASY = ["png", "JPG", "jpeg", "Bmp", "gif", "tif", "TIFF", "ppm", "pgm", "tga", "jfif", "jp2", "webp", "avif", "pcx", "ico"]
NEEDS = {"webp": "webp", "avif": "avif", "jp2": "jpg_2000"}


def put(path: Path, picture: Image.Image = PICTURE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def labels(tree: ImageTree) -> dict[str, int]:
    return {str(Path(f).parent.name): label for f, label in zip(tree.files, tree.labels, strict=True)}


@pytest.mark.parametrize("end", EASY)
def test_formats_that_pillow_decodes(end: str, tmp_path: Path) -> None:
    if end in NEEDS and not features.check(NEEDS[end]):
        pytest.skip("this Pillow lacks it")
    put(tmp_path / "a" / f"x.{end}", PICTURE.convert("RGB"))
    images, _ = next(open_data(str(tmp_path), INFO).evaluation.batches(1))
    assert float(images[:, :, :2].max()) < 0.2
    assert float(images[:, :, -2:].min()) > 0.8


def test_formats_that_pillow_only_knows_by_name_are_no_images() -> None:
    assert {".png", ".webp", ".tif", ".gif", ".bmp", ".ppm"} <= extensions()
    assert not {".h5", ".eps", ".ps", ".mpg", ".wmf", ".pdf", ".txt", ""} & extensions()


def test_the_first_picture_of_an_animation(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    PICTURE.save(tmp_path / "a" / "x.gif", save_all=True, append_images=[PICTURE.rotate(180)])
    images, _ = next(open_data(str(tmp_path), INFO).evaluation.batches(1))
    assert images[0, 0, :, 0].tolist() == [0.0] * 4 + [1.0] * 4


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sixteen_bits_are_not_cut_off_at_white(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.uint16([[0, 255, 256, 32768, 65535]])).save(path)
    with open_picture(path) as image:
        assert np.asarray(converted(image, mode)).reshape(5, -1)[:, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_without_a_range_are_refused(kind: type, tmp_path: Path) -> None:
    put(tmp_path / "a" / "x.tif", Image.fromarray(np.ones((4, 4), kind)))
    with pytest.raises(PmqError, match=r"1 of 1 images .* no known range"):
        list(open_data(str(tmp_path), INFO).evaluation.batches(1))


def test_files_that_are_no_images_are_counted_and_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "a" / "x.png")
    for name in ("list.txt", "a/x.json", "a/.DS_Store"):
        (tmp_path / name).touch()
    assert len(ImageTree(tmp_path, 1000, AS_TIMM)) == 1
    told = capsys.readouterr().err.splitlines()
    assert f"skipped 3 files that are not images, such as '{tmp_path}/list.txt'" in told


def test_a_folder_of_other_files_only(tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    with pytest.raises(PmqError, match=r"no images below .*, only 1 files that are not images, such as .*x\.csv"):
        open_data(str(tmp_path), INFO)


@pytest.fixture(params=["fifo", "socket", "device", "broken link", "link to nothing but itself", "empty", "text", "huge", "cut"])
def unreadable(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What is called an image and is none."""
    path = tmp_path / "a" / "x.jpg"
    path.parent.mkdir()
    bound = socket.socket(socket.AF_UNIX)
    match request.param:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            monkeypatch.chdir(path.parent)  # names of sockets are short
            bound.bind(path.name)
        case "device":
            path.symlink_to("/dev/zero")
        case "broken link":
            path.symlink_to("nowhere.jpg")
        case "link to nothing but itself":
            path.symlink_to(path.name)
        case "empty":
            path.touch()
        case "text":
            path.write_text("no image")
        case "huge":  # Pillow reads it with a warning
            Image.new("1", (14_000, 9_000)).save(path, "PNG")
        case "cut":
            PICTURE.save(path, "TIFF")
            path.write_bytes(path.read_bytes()[:-20])  # its directory lies at the end
    yield path
    bound.close()


@pytest.mark.timeout(20)
def test_what_is_no_image_is_unreadable_and_never_waited_for(unreadable: Path) -> None:
    with pytest.raises(PmqError, match=r"1 of 1 images .* cannot be read .*x\.jpg"):
        list(open_data(str(unreadable.parents[1]), INFO).evaluation.batches(1))


@pytest.mark.timeout(20)
def test_one_in_a_hundred_may_be_unreadable(unreadable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(99):
        put(unreadable.parent / f"{i}.png")
    source = open_data(str(unreadable.parents[1]), INFO).evaluation
    assert sum(len(images) for images, _ in source.batches(50)) == 99
    assert f"unreadable, skipped: {unreadable} (" in capsys.readouterr().err
    files = source.dataset.dataset.files
    with pytest.raises(PmqError, match="none of 1 images"):
        source.first_readable([files.index(str(unreadable))], 1)


def test_a_folder_may_be_called_as_an_image(tmp_path: Path) -> None:
    put(tmp_path / "b.jpg" / "x.png")
    put(tmp_path / "a" / "x.png")
    assert labels(ImageTree(tmp_path, 2, AS_TIMM)) == {"a": 0, "b.jpg": 1}


def test_links_are_followed_and_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "else" / "where" / "x.png")
    root = tmp_path / "root"
    put(root / "a" / "x.png")
    (root / "a" / "up").symlink_to("..")
    (root / "b").symlink_to(tmp_path / "else" / "where")
    (tmp_path / "else" / "where" / "round").symlink_to(root / "a")
    found = find_images(root, extensions())
    names = [Path(image).relative_to(root).as_posix() for image, _ in found.images]
    assert names == ["a/x.png", "b/round/x.png", "b/x.png"]
    assert "links to a folder that contains it" in capsys.readouterr().err


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a" / "x.png")
    really = os.scandir

    def scandir(path: Path) -> object:
        if path.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PmqError, match=r"folder '.*a' cannot be read: Permission denied"):
        open_data(str(tmp_path), INFO)


@pytest.mark.parametrize(
    ("num_classes", "found", "told"),
    [
        (3, {"a": 0, "c": 2}, "has folders without images, counted as classes, such as 'b'"),
        (2, {"a": 0, "c": 1}, "has folders without images, not counted as classes, such as 'b'"),
        (5, {"a": -1, "c": -1}, "has 2 classes, but the model has 5"),
    ],
)
def test_a_class_without_images(
    num_classes: int, found: dict[str, int], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "a" / "x.png")
    put(tmp_path / "c" / "x.png")
    (tmp_path / "b").mkdir()
    assert labels(ImageTree(tmp_path, num_classes, AS_TIMM)) == found
    assert told in capsys.readouterr().err


def test_images_in_no_class_folder_have_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("n01443537/x.png", "n15075141/x.png", "overview.png"):
        put(tmp_path / name)
    assert sorted(ImageTree(tmp_path, 1000, AS_TIMM).labels) == [-1, 1, 999]
    assert "has 1 images outside class folders" in capsys.readouterr().err


def test_a_single_logit_tells_two_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("no/x.png", "yes/x.png"):
        put(tmp_path / name)
    assert labels(ImageTree(tmp_path, 1, AS_TIMM)) == {"no": 0, "yes": 1}
    assert number_classes(["yes", "no"], 1, ClassRule(), "a dataset", ordered=True).index == {"yes": 0, "no": 1}
    assert "the model" not in capsys.readouterr().err
    assert number_classes(["yes"], 1, ClassRule(), "a dataset").index == {}
    assert "1 classes, but the model has 2" in capsys.readouterr().err


def test_names_alike_but_for_case_have_an_order(tmp_path: Path) -> None:
    for name in ("B/1.png", "b/1.png", "a/2.PNG", "a/2.png", "a/10.png"):
        put(tmp_path / name)
    tree = ImageTree(tmp_path, 3, AS_TIMM)
    assert [Path(f).relative_to(tmp_path).as_posix() for f in tree.files] == [
        "a/2.PNG",
        "a/2.png",
        "a/10.png",
        "B/1.png",
        "b/1.png",
    ]
    assert tree.labels == [1, 1, 1, 0, 2]


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a" / "x.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PmqError, match="is empty"):
        open_data("", INFO)
    with pytest.raises(PmqError, match="does not exist"):
        open_data("x" * 5000, INFO)


class Killed(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        os._exit(1)

    def __len__(self) -> int:
        return 2


def test_a_process_that_reads_ahead_and_dies_is_told() -> None:
    with pytest.raises(PmqError, match=r"reads images ahead died: .*lower `workers`"):
        list(ImageSource(Killed(), "numbers", workers=1).batches(1))


class Ranges(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        leaves = signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
        return torch.tensor([float(ignored and leaves)]), index

    def __len__(self) -> int:
        return 2


def test_processes_that_read_ahead_leave_ctrl_c_to_the_one_that_asks() -> None:
    assert [float(x) for x, _ in ImageSource(Ranges(), "numbers", workers=1).batches(1)] == [1.0, 1.0]
    assert [float(x) for x, _ in ImageSource(Ranges(), "numbers", workers=0).batches(1)] == [0.0, 0.0]
