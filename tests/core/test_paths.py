"""Paths that users name: none is empty, and none that is written to is a device."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pmq
from pmq.core import PmqError
from pmq.core.files import check_target, write_text
from pmq.core.rundir import RunDir
from pmq.core.spec import read_what
from pmq.data import open_data
from pmq.models import create_model, model_info

EMPTY: dict[str, Callable[[], object]] = {
    "create_model": lambda: create_model(checkpoint=""),
    "open_data": lambda: open_data("", model_info(create_model())),
    "RunDir": lambda: RunDir("", {}),
    "search": lambda: pmq.search(None, torch.zeros(4, 1, 28, 28), "4bit", out=""),
    "prune": lambda: pmq.prune(None, torch.zeros(4, 1, 28, 28), out=""),
    "deploy": lambda: pmq.deploy(None, "w8a8", "onnxruntime", torch.zeros(4, 1, 28, 28), ""),
}


@pytest.mark.parametrize("of", EMPTY)
def test_an_empty_name_is_not_the_current_folder(of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PmqError, match="is empty"):
        EMPTY[of]()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_name_is_no_allocation_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunDir(tmp_path, {}).finish(chosen="4bit")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PmqError, match="'' is no allocation file"):
        read_what("")


@pytest.mark.parametrize("name", ["x" * 300, f"{'x' * 300}/file", "ü" * 200, "x/" * 2500 + "file"])
def test_names_that_no_file_can_have_are_told_before_any_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(PmqError, match="shorten it"):
        check_target(tmp_path / name)
    assert check_target(tmp_path / "x" / "y" / "z").name == "z"


@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_devices_are_not_replaced_by_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(os.devnull)
    for write in (check_target, lambda path: write_text(path, "text")):
        with pytest.raises(PmqError, match="it is a device or a pipe"):
            write(path)
    assert not path.is_file()
