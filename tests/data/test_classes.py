"""Which output of the model is which class: maps, names, and the order of folders where nothing else tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pmq.core import PmqError
from pmq.data import open_data
from pmq.data.classes import ClassRule, number_classes, read_class_map
from pmq.data.image_table import TableKeys
from pmq.evaluation.order import check_order
from tests.data.test_data import INFO, make_tree

TEN = [f"class{n}" for n in range(1, 11)]


def test_folders_are_sorted_as_torchvision_sorts_them_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    found = number_classes(TEN, 10, ClassRule(), "here")
    assert (found.index["class1"], found.index["class10"], found.index["class2"]) == (0, 1, 2)
    assert found.names == tuple(sorted(TEN))
    assert found.other == {name: number for number, name in enumerate(TEN)}
    assert "10 folders, sorted by name as torchvision's ImageFolder does: 'class1', 'class10'" in (capsys.readouterr().err)
    assert number_classes(TEN, 10, ClassRule(order="natural"), "here").index["class2"] == 1
    assert number_classes(["b", "a"], 2, ClassRule(), "here").other is None
    with pytest.raises(PmqError, match="class order 'size' is not one of imagefolder, natural"):
        ClassRule(order="size")


def test_images_in_no_folder_of_a_model_without_classes_have_none() -> None:
    assert number_classes([], 0, ClassRule(), "here").index == {}


def test_names_of_the_model_decide() -> None:
    names = ("zebra", "Golden Retriever, retriever", "cat")
    found = number_classes(["golden_retriever", "cat"], 3, ClassRule(names), "here")
    assert found.index == {"golden_retriever": 1, "cat": 2}
    assert found.names == ()
    with pytest.raises(PmqError, match="folder 'dog' in here is not a class of the model, while other folders are"):
        number_classes(["dog", "cat"], 3, ClassRule(names), "here")
    with pytest.raises(PmqError, match="two folders in here are the same class"):
        number_classes(["retriever", "golden-retriever"], 3, ClassRule(names), "here")
    assert number_classes(["0", "1", "2"], 3, ClassRule(names), "here").index == {"0": 0, "1": 1, "2": 2}


def test_a_synonym_of_two_classes_tells_of_none() -> None:
    names = ("crane, machine", "crane, bird")
    assert number_classes(["bird", "machine"], 2, ClassRule(names), "here").index == {"bird": 1, "machine": 0}
    with pytest.raises(PmqError, match="folder 'crane'"):
        number_classes(["crane", "machine"], 2, ClassRule(names), "here")


@pytest.mark.parametrize(
    ("name", "content"), [("m.txt", "b\na\nc\n"), ("m.json", '["b", "a", "c"]'), ("m.json", '{"a": 1, "b": 0, "c": 2}')]
)
def test_a_class_map_counts_before_all_else(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert read_class_map(tmp_path / name) == {"a": 1, "b": 0, "c": 2}
    rule = ClassRule(("a", "b", "c"), tmp_path / name)
    assert number_classes(["a", "c"], 3, rule, "here").index == {"a": 1, "c": 2}
    with pytest.raises(PmqError, match="folder 'd' in here is not a class of class map"):
        number_classes(["d"], 3, rule, "here")
    with pytest.raises(PmqError, match="gives 'c' the number 2, but the model has 2 outputs"):
        number_classes(["c"], 2, rule, "here")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("m.txt", "a\na\n", "lists 'a' twice"), ("m.pkl", "", r"must be a \.txt file"), ("m.json", '{"a": "x"}', "integer")],
)
def test_what_is_no_class_map_is_told(name: str, content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(PmqError, match=told):
        read_class_map(tmp_path / name)


def test_tables_name_images_and_classes(tmp_path: Path) -> None:
    make_tree(tmp_path / "images", ["x", "y"], 2)
    rows = [(f"images/{folder}/{i}.jpg", folder) for i in range(2) for folder in ("y", "x")]
    table = tmp_path / "labels.csv"
    table.write_text("file,kind\n" + "\n".join(",".join(row) for row in rows) + "\n")
    two = INFO.model_copy(update={"num_classes": 2})
    _, labels = next(open_data(str(table), two, keys=TableKeys(target="kind")).evaluation.batches(8))
    assert labels.tolist() == [1, 0, 1, 0]
    _, labels = next(open_data(str(table), two).evaluation.batches(8))
    assert labels.tolist() == [-1] * 4
    table.write_text("picture,label\n" + "\n".join(f"{file},{int(kind == 'y')}" for file, kind in rows) + "\n")
    _, labels = next(open_data(str(table), two, keys=TableKeys(image="picture")).evaluation.batches(8))
    assert labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(PmqError, match="no column of paths; pass one of picture, label as `input_key`"):
        open_data(str(table), two)
    with pytest.raises(PmqError, match="no column 'x'; pass one of picture, label as `target_key`"):
        open_data(str(table), two, keys=TableKeys(image="picture", target="x"))
    table.write_text("file,label\na.jpg,7\n")
    with pytest.raises(PmqError, match="class 7 is not one of the model's 2 outputs"):
        open_data(str(table), two)


def test_an_archive_is_read_as_a_folder_is(tmp_path: Path) -> None:
    import tarfile

    make_tree(tmp_path / "tree", ["b", "a"], 2)
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(tmp_path / "tree", "tree")
    two = INFO.model_copy(update={"num_classes": 2})
    _, labels = next(open_data(str(tmp_path / "images.tar"), two).evaluation.batches(8))
    assert sorted(labels.tolist()) == [0, 0, 1, 1]


class _Bright(nn.Module):
    """Tells the class that a picture's brightness stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        level = ((x.mean((1, 2, 3)) + 1) / 2 * 10).floor().clamp(0, 9)
        return -(level[:, None] - torch.arange(10.0)).abs() * self.scale


@pytest.mark.parametrize("trained", ["natural", "imagefolder"])
def test_the_other_order_is_proposed_where_the_model_is_right_by_it(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    order = TEN if trained == "natural" else sorted(TEN)
    for number, name in enumerate(order):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (40, 40), (round(25.5 * number + 12),) * 3).save(tmp_path / name / f"{i}.png")
    info = INFO.model_copy(update={"num_classes": 10})
    for used in ("imagefolder", "natural"):
        source = open_data(str(tmp_path), info, rule=ClassRule(order=used)).evaluation
        capsys.readouterr()
        check_order(_Bright(), source)
        told = capsys.readouterr().err
        assert (f"pass `class_order={trained}`" in told) == (used != trained)
        assert json.dumps(told)
