import json
from pathlib import Path

import numpy as np
import pytest

from pmq.core import Allocation, ModelInfo, PmqError
from pmq.core.tensors import TensorFile


@pytest.fixture
def data() -> dict:
    return {
        "schema_version": 2,
        "model": {"name": "m", "num_classes": 2, "weights_sha256": "0" * 64},
        "space": "default",
        "recipe": {"name": "mse"},
        "components": {"a.weight": {"bits": 4, "granularity": "channel", "symmetric": True}},
    }


def write(path: Path, data: object) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_round_trip(tmp_path: Path, data: dict) -> None:
    allocation = Allocation.load(write(tmp_path / "a.json", data))
    assert Allocation.load(allocation.save(tmp_path / "b.json")) == allocation


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_version": 1}, "schema_version 1"),
        ({"bitz": 1}, "bitz"),
        ({"components": {"a.weight": {"bits": 9}}}, "bit-width 9"),
        ({"components": {"a.weight": {"bits": 4, "colour": 1}}}, "colour"),
        ({"components": {"a.weight": {"bits": 32}}}, "32 bits"),
        ({"components": {"a.weight": {"bits": 4, "granularity": "group"}}}, "group_size"),
    ],
)
def test_faults_are_named_in_one_line(tmp_path: Path, data: dict, change: dict, told: str) -> None:
    with pytest.raises(PmqError) as error:
        Allocation.load(write(tmp_path / "a.json", data | change))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_tensors_lie_beside_and_are_known_by_their_hash(tmp_path: Path, data: dict) -> None:
    tensors = TensorFile.of({"a.weight.codes": np.arange(5, dtype=np.uint8)})
    allocation = Allocation.load(write(tmp_path / "a.json", data)).with_tensors(tensors)
    path = allocation.save(tmp_path / "b.json")
    again = Allocation.load(path)
    assert again == allocation
    assert again.tensors.arrays()["a.weight.codes"].tolist() == [0, 1, 2, 3, 4]
    assert again.model_copy(update={"metrics": {}}).tensors is again.tensors
    beside = path.with_suffix(".safetensors")
    beside.write_bytes(TensorFile.of({"a.weight.codes": np.zeros(5, dtype=np.uint8)}).data)
    with pytest.raises(PmqError, match="does not hold the tensors"):
        Allocation.load(path)
    beside.unlink()
    assert Allocation.load(path).tensors is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_no_allocation(tmp_path: Path, text: str) -> None:
    with pytest.raises(PmqError, match="allocation"):
        Allocation.load(write(tmp_path / "a.json", text))
    with pytest.raises(PmqError, match="does not exist"):
        Allocation.load(tmp_path / "nothing.json")


def test_refuses_another_model_and_other_weights(tmp_path: Path, data: dict) -> None:
    allocation = Allocation.load(write(tmp_path / "a.json", data))
    allocation.check_model(ModelInfo(name="m", num_classes=2, weights_sha256="0" * 64))
    with pytest.raises(PmqError, match="of model 'm', not of 'n'"):
        allocation.check_model(ModelInfo(name="n", num_classes=2, weights_sha256="0" * 64))
    with pytest.raises(PmqError, match="`recalibrate`"):
        allocation.check_model(ModelInfo(name="m", num_classes=2, weights_sha256="1" * 64))


def test_schema_is_of_the_same_types() -> None:
    schema = Allocation.json_schema()
    assert set(schema["properties"]) == set(Allocation.model_fields)
    assert schema["additionalProperties"] is False
