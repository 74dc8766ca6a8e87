from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pmq.core import ModelInfo, PmqError
from pmq.data import open_data
from pmq.data.folder import ImageTree, Preprocess
from pmq.models import create_model, model_info

CONFIG = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 1.0}
INFO = ModelInfo(name="m", num_classes=1000, weights_sha256="", data_config=CONFIG)
AS_TIMM = Preprocess(INFO, None)


def make_tree(root: Path, folders: list[str], count: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(root / folder / f"{i}.jpg")
    return root


def test_wnids_are_imagenet_classes_even_if_only_some_are_there(tmp_path: Path) -> None:
    make_tree(tmp_path, ["n01443537", "n15075141"])  # goldfish is class 1, toilet tissue the last
    assert sorted(set(ImageTree(tmp_path, 1000, AS_TIMM).labels)) == [1, 999]


def test_wnid_that_imagenet_lacks_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, ["n01443537", "n99999999"])
    with pytest.raises(PmqError, match="n99999999"):
        ImageTree(tmp_path, 1000, AS_TIMM)


def test_other_folders_are_numbered_by_their_order_or_not_at_all(tmp_path: Path) -> None:
    make_tree(tmp_path, ["10", "9", "b"], 1)
    tree = ImageTree(tmp_path, 3, AS_TIMM)
    assert {Path(f).parent.name: label for f, label in zip(tree.files, tree.labels, strict=True)} == {"10": 0, "9": 1, "b": 2}
    assert set(ImageTree(tmp_path, 5, AS_TIMM).labels) == {-1}


def test_preprocessing_is_timms(tmp_path: Path) -> None:
    make_tree(tmp_path, ["n01443537"])
    images, labels = next(open_data(str(tmp_path), INFO).evaluation.batches(2))
    assert images.shape == (2, 3, 32, 32)
    assert images.min() >= -1
    assert labels.tolist() == [1, 1]


def test_one_folder_is_divided_never_shared(tmp_path: Path) -> None:
    make_tree(tmp_path, ["n01443537"], 10)
    data = open_data(str(tmp_path), INFO)
    assert data.shared
    drawn = set(data.calibration.draw(3)[:4])
    kept = data.evaluation_indices(4, 3)
    assert len(kept) == 6
    assert not drawn & set(kept)


def test_train_and_val_are_found(tmp_path: Path) -> None:
    make_tree(tmp_path / "train", ["n01443537"], 4)
    make_tree(tmp_path / "val", ["n01443537"], 2)
    data = open_data(str(tmp_path), INFO)
    assert not data.shared
    assert (len(data.calibration), len(data.evaluation)) == (4, 2)
    assert torch.equal(data.calibration_images(3, 0), data.calibration_images(3, 0))
    assert not torch.equal(data.calibration_images(3, 0), data.calibration_images(3, 1))


def test_unreadable_images_are_counted_and_named_up_to_one_percent(tmp_path: Path) -> None:
    make_tree(tmp_path, ["n01443537"], 120)
    (tmp_path / "n01443537" / "5.jpg").write_bytes(b"no image")
    source = open_data(str(tmp_path), INFO).evaluation
    assert sum(len(x) for x, _ in source.batches(16)) == 119
    assert len(source.unreadable) == 1
    assert "5.jpg" in source.unreadable[0]
    (tmp_path / "n01443537" / "6.jpg").write_bytes((tmp_path / "n01443537" / "6.jpg").read_bytes()[:300])
    with pytest.raises(PmqError, match="2 of 120 images"):
        list(source.batches(16))


@pytest.mark.parametrize(
    ("data", "split", "told"),
    [("nowhere", None, "does not exist"), ("", None, "no images"), ("", "best", "no split 'best'"), (None, None, "needs images")],
)
def test_missing_data(tmp_path: Path, data: str | None, split: str | None, told: str) -> None:
    with pytest.raises(PmqError, match=told):
        open_data(None if data is None else str(tmp_path / data), INFO, split)


def test_timm_datasets_fail_in_one_line() -> None:
    with pytest.raises(PmqError, match="timm cannot open dataset 'torch/nothing'"):
        open_data("torch/nothing", INFO)


def test_timm_dataset_opens(tmp_path: Path) -> None:
    make_tree(tmp_path / "train", ["a", "b"], 3)
    make_tree(tmp_path / "validation", ["a", "b"], 2)
    data = open_data(f"{tmp_path}::torch/image_folder", INFO)
    images, _ = next(data.evaluation.batches(4))
    assert images.shape == (4, 3, 32, 32)


def test_embedded_images() -> None:
    data = open_data(None, model_info(create_model()))
    assert (len(data.calibration), len(data.evaluation)) == (1000, 10000)
    images, labels = next(data.evaluation.batches(64))
    assert images.shape == (64, 1, 28, 28)
    assert abs(float(images.mean())) < 0.2
    assert int(labels.max()) < 10
    with pytest.raises(PmqError, match="2000 calibration images were requested"):
        data.calibration_images(2000, 0)


def test_timm_datasets_get_the_models_classes_too(tmp_path: Path) -> None:
    make_tree(tmp_path / "validation", ["n01443537", "n15075141"], 2)
    make_tree(tmp_path / "train", ["n01443537", "n15075141"], 2)
    _, labels = next(open_data(f"{tmp_path}::torch/image_folder", INFO).evaluation.batches(4))
    assert labels.tolist() == [1, 1, 999, 999]
    few = INFO.model_copy(update={"num_classes": 7})
    _, labels = next(open_data(f"{tmp_path}::torch/image_folder", few).evaluation.batches(4))
    assert labels.tolist() == [-1] * 4
    same = open_data(f"{tmp_path}::torch/image_folder", INFO, split="train")
    assert same.shared


def test_grey_models_get_grey_images(tmp_path: Path) -> None:
    make_tree(tmp_path, ["a"], 2)
    images, _ = next(open_data(str(tmp_path), model_info(create_model())).evaluation.batches(2))
    assert images.shape == (2, 1, 28, 28)


def test_a_train_folder_is_never_evaluated_by_mistake(tmp_path: Path) -> None:
    make_tree(tmp_path / "train", ["n01443537"], 2)
    make_tree(tmp_path / "valid", ["n01443537"], 2)
    with pytest.raises(PmqError, match="as `split`"):
        open_data(str(tmp_path), INFO)
    assert len(open_data(str(tmp_path), INFO, split="valid").evaluation) == 2


def test_calibration_replaces_what_it_cannot_read_and_evaluation_stays_apart(tmp_path: Path) -> None:
    make_tree(tmp_path, ["n01443537"], 120)
    data = open_data(str(tmp_path), INFO)
    order = data.calibration.draw(0)
    Path(data.calibration.dataset.dataset.files[order[2]]).write_bytes(b"no image")
    assert data.calibration_images(10, 0).shape[0] == 10
    assert not set(order[:11]) & set(data.evaluation_indices(10, 0))
