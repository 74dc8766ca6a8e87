"""An allocation is checked against what it is of: choices, parameters, tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pmq.core import Allocation, PmqError
from pmq.core.choice import BY_TOKEN, Choice
from pmq.core.quantizer_parameters import OF_WEIGHTS, QUANTIZER_PARAMETERS, why_wrong
from pmq.core.run_files import CHOSEN
from pmq.core.tensors import TensorFile
from pmq.quant.estimators import ESTIMATORS
from pmq.quant.quantizers import QUANTIZERS as REGISTERED
from tests.made_run import make_run

Tree = dict[str, Any]
QKV, FC2, HEADS = "blocks.0.attn.qkv", "blocks.0.mlp.fc2", "blocks.0.attn.q"


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("described") / "run") / CHOSEN


def damaged(chosen: Path, folder: Path, change: Callable[[Tree, dict[str, Any]], object]) -> Path:
    """A copy of an allocation with other contents, whose tensors still belong to it."""
    tree, arrays = json.loads(chosen.read_text()), TensorFile.read(chosen.with_suffix(".safetensors")).arrays()
    change(tree, arrays)
    tensors = TensorFile.of(arrays)
    tree["tensors_sha256"] = tensors.sha256
    (folder / "a.safetensors").write_bytes(tensors.data)
    (folder / "a.json").write_text(json.dumps(tree))
    return folder / "a.json"


def choice(name: str, **new: Any) -> Callable[[Tree, Any], object]:
    return lambda tree, _: tree["components"][name].update(new)


def parameter(name: str, key: str, new: object) -> Callable[[Tree, Any], object]:
    return lambda tree, _: tree["components"][name]["parameters"].update({key: new})


def tensor(name: str, change: Callable[[Any], Any]) -> Callable[[Any, dict[str, Any]], object]:
    return lambda _, arrays: arrays.update({name: change(arrays[name])})


WRONG: dict[str, tuple[Callable[[Tree, Any], object], str]] = {
    "unknown quantizer": (choice(f"{QKV}.input", quantizer="magic"), "quantizer 'magic' is not one of"),
    "quantizer of activations": (choice(f"{QKV}.weight", quantizer="log"), "weights take affine"),
    "heads of a weight": (choice(f"{QKV}.weight", granularity="head"), "granularity 'head'"),
    "channels of an activation": (choice(f"{QKV}.input", granularity="channel"), "activations take tensor"),
    "logarithms of an input": (choice(f"{QKV}.input", quantizer="log"), "softmax outputs"),
    "missing component": (lambda tree, _: tree["components"].pop(HEADS), "is missing"),
    "foreign component": (
        lambda tree, _: tree["components"].update({"x.weight": tree["components"][f"{QKV}.weight"]}),
        "is not one",
    ),
    "no parameters": (choice(f"{QKV}.input", parameters=None), "scale is missing"),
    "a parameter less": (lambda tree, _: tree["components"][HEADS]["parameters"].pop("zero_point"), "zero_point is missing"),
    "an unknown parameter": (parameter(HEADS, "low", [0.0]), "low is no parameter"),
    "a value less": (parameter(HEADS, "scale", [0.5]), "scale has 1 values, not 2"),
    "a value more": (parameter(f"{QKV}.input", "scale", [0.5, 0.5]), "scale has 2 values, not 1"),
    "negative scale": (parameter(HEADS, "scale", [0.5, -0.5]), "scale is not positive"),
    "no scale": (parameter(HEADS, "scale", [0.5, 0.0]), "scale is not positive"),
    "half a zero point": (parameter(HEADS, "zero_point", [0.5, 0.0]), "zero_point is no integer"),
    "zero point outside": (parameter(HEADS, "zero_point", [0.0, 256.0]), "zero_point is no integer"),
    "text": (parameter(HEADS, "scale", ["x", 1]), "valid number"),
    "nan as text": (parameter(HEADS, "scale", ["nan", 1]), "finite number"),
    "other bits": (choice(f"{QKV}.weight", bits=3), "values of uint8, not"),
    "codes cut": (tensor(f"{QKV}.weight.codes", lambda a: a[:-1]), "values of uint8, not"),
    "scales in double precision": (tensor(f"{QKV}.weight.scale", lambda a: a.astype(np.float64)), "of float32"),
    "codes of floats": (tensor(f"{QKV}.weight.codes", lambda a: a.astype(np.float32)), "of uint8"),
    "scales cut": (tensor(f"{QKV}.weight.scale", lambda a: a[:1]), "1 values of float32, not 24"),
    "scales negative": (tensor(f"{QKV}.weight.scale", lambda a: -a), "is not positive"),
    "scales not finite": (tensor(f"{QKV}.weight.scale", lambda a: a * np.inf), "is not finite"),
    "biases not finite": (tensor("norm.bias", lambda a: a * np.nan), "is not finite"),
    "no codes": (lambda _, arrays: arrays.pop(f"{QKV}.weight.codes"), "have no"),
    "endless groups": (choice(f"{QKV}.weight", granularity="group", group_size=10**12), "group_size"),
    "heads that are none": (lambda tree, _: tree["inventory"][HEADS].update(heads=0), "heads"),
    "a shape that is none": (lambda tree, _: tree["inventory"][HEADS].update(shape=[]), "shape"),
    "crop": (lambda tree, _: tree["model"]["data_config"].update(crop_pct="x"), "crop_pct"),
    "size": (lambda tree, _: tree["model"]["data_config"].update(input_size=[1, 8]), "input_size"),
    "seed": (lambda tree, _: tree["calibration"].update(seed=-1), "seed"),
    "endless plan": (
        lambda tree, _: tree.update(
            pruning={
                "importance": "x",
                "recovered": False,
                "units": {"a": {"kind": "hidden", "size": 8, "kept": "0-99999999999"}},
            }
        ),
        "below the size",
    ),
}


@pytest.mark.parametrize("of", WRONG)
def test_what_does_not_fit_is_told_when_it_is_read(chosen: Path, tmp_path: Path, of: str) -> None:
    change, told = WRONG[of]
    path = damaged(chosen, tmp_path, change)
    with pytest.raises(PmqError) as error:
        Allocation.load(path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_what_is_whole_is_read(chosen: Path, tmp_path: Path) -> None:
    assert Allocation.load(damaged(chosen, tmp_path, lambda *_: None)).tensors is not None


def test_older_files_without_an_inventory_are_checked_as_far_as_they_go(chosen: Path, tmp_path: Path) -> None:
    def older(change: Callable[[Tree, Any], object]) -> Path:
        return damaged(chosen, tmp_path, lambda tree, arrays: (tree.pop("inventory"), change(tree, arrays)))

    assert Allocation.load(older(lambda *_: None)).inventory is None
    for of in ("unknown quantizer", "no parameters", "negative scale", "a value more"):
        with pytest.raises(PmqError, match=WRONG[of][1]):
            Allocation.load(older(WRONG[of][0]))


def test_edited_bits_may_be_computed_anew(chosen: Path, tmp_path: Path) -> None:
    path = damaged(chosen, tmp_path, choice(f"{QKV}.weight", bits=3))
    assert Allocation.load(path, with_tensors=False).components[f"{QKV}.weight"].bits == 3
    with pytest.raises(PmqError, match="`recalibrate`"):
        Allocation.load(path)
    with pytest.raises(PmqError, match="'magic'"):
        Allocation.load(damaged(chosen, tmp_path, WRONG["unknown quantizer"][0]), with_tensors=False)


def test_faults_are_told_by_place_rule_and_value_however_long(chosen: Path, tmp_path: Path) -> None:
    path = damaged(chosen, tmp_path, choice(HEADS, quantizer=["x" * 100_000] * 1000))
    with pytest.raises(PmqError, match=r"components\.blocks\.0\.attn\.q\.quantizer: .*valid string; found \['x+\.\.\.") as error:
        Allocation.load(path)
    assert len(str(error.value)) < 500
    path = damaged(chosen, tmp_path, lambda tree, _: tree["components"].update({"\n" * 50 + "x" * 10_000: {}}))
    with pytest.raises(PmqError, match="Field required") as error:
        Allocation.load(path)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_tensors_of_types_that_nothing_is_stored_as_are_told(dtype: str) -> None:
    header = json.dumps({"x": {"dtype": dtype, "shape": [2], "data_offsets": [0, 4 if dtype == "BF16" else 2]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(4 if dtype == "BF16" else 2)
    with pytest.raises(PmqError, match=dtype):
        TensorFile(data).arrays()


@pytest.mark.parametrize("name", list(REGISTERED))
def test_the_table_says_what_quantizers_take(name: str) -> None:
    bits, rows = (16 if name in ("half", "bfloat16") else 4), 3
    values = torch.rand(rows, 64, generator=torch.Generator().manual_seed(0))
    quantizer = REGISTERED[name].fit(values, bits, False, ESTIMATORS["minmax"])
    needs, found = QUANTIZER_PARAMETERS[name], quantizer.numbers
    assert found.keys() == set(needs.names)
    assert {key: len(found[key]) for key in needs.per_scale} == dict.fromkeys(needs.per_scale, rows)
    assert {key: len(found[key]) for key in needs.shared} == dict.fromkeys(needs.shared, 1)
    assert {key: len(found[key]) for key in needs.levels} == dict.fromkeys(needs.levels, 2**bits)
    assert quantizer.shared == {*needs.shared, *needs.levels}
    granularity = "token" if name in BY_TOKEN else "tensor"
    assert why_wrong(Choice(bits=bits, quantizer=name, granularity=granularity), found, rows) is None


def test_the_table_names_all_quantizers() -> None:
    assert set(QUANTIZER_PARAMETERS) == {*REGISTERED, "none"}
    assert set(OF_WEIGHTS) <= set(REGISTERED)
