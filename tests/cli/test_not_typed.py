"""Nothing is fetched from a network because a file says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pmq.cli.recorded import fill_from_pruned, fill_from_runs
from pmq.cli.source import Source
from pmq.core import Allocation, PmqError
from pmq.core.allocation import ModelInfo
from pmq.core.pruning import PruningPlan
from pmq.core.recipe import find_recipe
from pmq.core.tensors import TensorFile
from pmq.data.open import check_local
from pmq.models.create import check_named
from pmq.pipeline.pruned_model import load_pruned

NAMES = ["hf-hub:user/model", "hf_hub:user/model", "local-dir:/somewhere", "https://example.org/model"]


def allocation(name: str) -> Allocation:
    info = ModelInfo(name=name, num_classes=3, weights_sha256="0" * 64)
    return Allocation(model=info, space="default", recipe=find_recipe("minmax"), components={})


def source(**flags: Any) -> Source:
    return Source(**flags)


@pytest.mark.parametrize("name", NAMES)
def test_a_models_name_in_a_file_fetches_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmq.models.create._model", lambda *_, **__: pytest.fail("a model was made"))
    with pytest.raises(PmqError, match="name the model yourself if you trust it"):
        fill_from_runs([], [allocation(name)], source())
    plan = PruningPlan(importance="magnitude", recovered=False, units={})
    pruned = allocation(name).model_copy(update={"pruning": plan}).with_tensors(TensorFile.of({}))
    with pytest.raises(PmqError, match="name the model yourself if you trust it"):
        load_pruned(pruned)


def test_a_name_that_was_typed_is_taken() -> None:
    assert fill_from_runs([], [allocation(NAMES[0])], source(model=NAMES[0])).model == NAMES[0]
    assert fill_from_runs([], [allocation("test_vit")], source()).model == "test_vit"
    assert check_named("vit_tiny_patch16_224.augreg_in21k")


@pytest.mark.parametrize("data", ["hfds/user/images", "root::wds/images"])
def test_data_that_a_run_remembers_fetches_nothing(data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys.modules["pmq.cli.recorded"], "recorded_flags", lambda _: source(data=data).flags())
    for fill in (lambda: fill_from_runs([str(tmp_path)], [], source()), lambda: fill_from_pruned(source(model=str(tmp_path)))):
        with pytest.raises(PmqError, match="pass it as `data` if you trust it"):
            fill()
    assert fill_from_runs([str(tmp_path)], [], source(data=data)).data == data
    check_local("torch/cifar10")
