"""What a deployed file tells of its images and classes is as timm has it, and is never believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pmq.core import PmqError
from pmq.runtimes.labels import described, read_description, read_texts

FILE = Path("m.onnx")
CONFIG = {"input_size": [3, 8, 8], "interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.2] * 3}
NAMES = ["a", "b"]
#: what files held before they told of their task
BEFORE = {
    "pmq.preprocess": json.dumps(CONFIG | {"crop_mode": None, "num_classes": 2}),
    "pmq.classes": json.dumps(NAMES),
    "pmq.target": "onnxruntime",
}


def changed(**keys: Any) -> dict[str, str]:
    return BEFORE | {"pmq.preprocess": json.dumps(json.loads(BEFORE["pmq.preprocess"]) | keys)}


def test_what_is_written_is_read() -> None:
    found = read_description(described(CONFIG | {"crop_mode": "squash"}, 2, NAMES), FILE)
    assert found.preprocess.model_dump() == {
        **{key: tuple(value) if isinstance(value, list) else value for key, value in CONFIG.items()},
        **{"crop_mode": "squash", "num_classes": 2, "task": "classification", "values": "float", "layout": "nchw"},
    }
    assert found.classes == ("a", "b")


def test_files_without_a_task_are_read() -> None:
    found = read_description(BEFORE | {"other": "texts"}, FILE)
    assert (found.preprocess.meaning, found.preprocess.crop_mode, found.classes) == ("classification", None, ("a", "b"))


@pytest.mark.parametrize(
    ("outputs", "asked", "task"),
    [(0, "auto", "features"), (1, "auto", "binary"), (2, "auto", "classification"), (1, "regression", "regression")],
)
def test_a_task_is_as_asked_or_by_the_number_of_outputs(outputs: int, asked: str, task: str) -> None:
    texts = described(CONFIG, outputs, [], asked)
    assert json.loads(texts["pmq.preprocess"])["task"] == task
    assert read_description(texts, FILE).preprocess.meaning == task


def test_figures_of_other_channels_than_the_images_have_are_refused() -> None:
    expected = r"images have 4 channel\(s\), but mean and std have 3 and 1 values; pass `mean` and `std`"
    with pytest.raises(PmqError, match=expected):
        described(CONFIG | {"input_size": [4, 8, 8], "std": [0.2]}, 2, NAMES)


def test_models_that_cannot_be_told_of_are_written_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert described(CONFIG | {"crop_pct": 0, "mean": [0.5] * 3, "std": [0.2] * 3}, 2, NAMES) == {}
    assert "pmq run cannot use it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"input_size": [3, -8, 8]}, "input_size.1"),
        ({"input_size": [3, 10**9, 8]}, "input_size.1"),
        ({"input_size": [2, 8, 8]}, "mean and std have 3 and 3 values; images of 2"),
        ({"input_size": [0, 8, 8]}, "input_size.0"),
        ({"input_size": [3, 8]}, "input_size.2"),
        ({"input_size": "388"}, "input_size"),
        ({"interpolation": "random"}, "interpolation.*'bicubic'"),
        ({"interpolation": None}, "interpolation"),
        ({"crop_mode": "round"}, "crop_mode.*'squash'"),
        *(({"crop_pct": crop}, "crop_pct") for crop in (0, 1e-9, -1, 2, None, "1", float("nan"), float("inf"))),
        ({"mean": [0.5]}, "mean and std have 1 and 3 values"),
        ({"mean": 0.5}, "mean"),
        ({"mean": [1e300] * 3}, "mean.0"),
        ({"std": [0.2] * 4}, "mean and std have 3 and 4 values"),
        ({"std": [0.2, 0, 0.2]}, "std.1"),
        ({"std": [float("nan")] * 3}, "std.0"),
        ({"num_classes": 3}, "2 classes are named.*0 or 3"),
        ({"num_classes": "2"}, "num_classes"),
        ({"num_classes": True}, "num_classes"),
        ({"task": "binary"}, "task 'binary' does not fit"),
        ({"task": "ranking"}, "task.*'classification'"),
        ({"centre": True}, "centre: unknown key; allowed here are input_size"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(PmqError, match=said) as refused:
        read_description(changed(**keys), FILE)
    assert "\n" not in str(refused.value)
    assert "m.onnx" in str(refused.value)


TEXTS = ["", "null", "[]", "1", "{", "\x00", '"x"', "NaN", "[" * 100_000, '{"a":' * 100_000, '{"mean": [' + "9" * 5000 + "]}"]


@pytest.mark.parametrize("text", [*TEXTS, "{}"])
@pytest.mark.parametrize("key", ["pmq.preprocess", "pmq.classes"])
def test_texts_that_are_anything_else_are_refused(text: str, key: str) -> None:
    if (key, text) == ("pmq.classes", "[]"):  # that they have no names is what files may say
        assert read_description(BEFORE | {key: text}, FILE).classes == ()
        return
    with pytest.raises(PmqError, match=key.removeprefix("pmq.")) as refused:
        read_description(BEFORE | {key: text}, FILE)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], [1, 2], [None, "b"], "ab", {"a": "b"}])
def test_names_that_are_none_or_not_as_many_as_outputs_are_refused(names: Any) -> None:
    with pytest.raises(PmqError, match="class"):
        read_description(BEFORE | {"pmq.classes": json.dumps(names)}, FILE)


@pytest.mark.parametrize("text", [*(text for text in TEXTS if text), '{"pmq.target": null}', '{"pmq.target": 1}'])
def test_texts_kept_as_one_are_texts(text: str) -> None:
    assert read_texts("", FILE) == {}
    with pytest.raises(PmqError, match=r"texts of 'm.onnx'"):
        read_texts(text, FILE)


def test_a_file_that_tells_nothing_is_none_of_ours() -> None:
    with pytest.raises(PmqError, match="not written by pmq deploy"):
        read_description({}, FILE)
