"""Nothing is fetched from a network because a file says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pmq.cli.run import of_pruned, remembered
from pmq.cli.source import Source
from pmq.core import Allocation, PmqError
from pmq.core.allocation import ModelInfo
from pmq.core.pruning import PruningPlan
from pmq.core.recipe import find_recipe
from pmq.core.tensors import TensorFile
from pmq.data.open import check_at_hand
from pmq.models.create import check_named
from pmq.pipeline.pruned_model import load_pruned

NAMES = ["hf-hub:user/model", "hf_hub:user/model", "local-dir:/somewhere", "https://example.org/model"]


def allocation(name: str) -> Allocation:
    info = ModelInfo(name=name, num_classes=3, weights_sha256="0" * 64)
    return Allocation(model=info, space="default", recipe=find_recipe("minmax"), components={})


def given(**flags: Any) -> Source:
    return Source(**flags)


@pytest.mark.parametrize("name", NAMES)
def test_a_models_name_in_a_file_fetches_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmq.models.create._model", lambda *_, **__: pytest.fail("a model was made"))
    with pytest.raises(PmqError, match="name the model yourself if you trust it"):
        remembered([], [allocation(name)], given())
    plan = PruningPlan(importance="magnitude", recovered=False, units={})
    pruned = allocation(name).model_copy(update={"pruning": plan}).with_tensors(TensorFile.of({}))
    with pytest.raises(PmqError, match="name the model yourself if you trust it"):
        load_pruned(pruned)


def test_a_name_that_was_typed_is_taken() -> None:
    assert remembered([], [allocation(NAMES[0])], given(model=NAMES[0])).model == NAMES[0]
    assert remembered([], [allocation("test_vit")], given()).model == "test_vit"
    assert check_named("vit_tiny_patch16_224.augreg_in21k")


@pytest.mark.parametrize("data", ["hfds/user/images", "root::wds/images"])
def test_data_that_a_run_remembers_fetches_nothing(data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys.modules["pmq.cli.run"], "started_with", lambda _: given(data=data).flags())
    for fill in (lambda: remembered([str(tmp_path)], [], given()), lambda: of_pruned(given(model=str(tmp_path)))):
        with pytest.raises(PmqError, match="name it with --data if you trust it"):
            fill()
    assert remembered([str(tmp_path)], [], given(data=data)).data == data
    check_at_hand("torch/cifar10")
