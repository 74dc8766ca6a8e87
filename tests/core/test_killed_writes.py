"""An allocation's two files, and a kill between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmq.core import allocation as module
from pmq.core.run_files import check_output
from pmq.core.tensors import TensorFile
from tests.core.test_allocation import data, write  # noqa: F401


def test_an_allocation_whose_writing_was_stopped_can_be_written_again(
    tmp_path: Path,
    data: dict,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = TensorFile.of({"a.weight.codes": np.arange(5, dtype=np.uint8)})
    allocation = module.Allocation.load(write(tmp_path / "a.json", data)).with_tensors(tensors)
    whole = {name: getattr(module, name) for name in ("write_bytes", "write_text")}
    for stopped in whole:
        for name, function in whole.items():
            monkeypatch.setattr(module, name, _stop if name == stopped else function)
        with pytest.raises(KeyboardInterrupt):
            allocation.save(tmp_path / "b.json")
        check_output(tmp_path / "b.json", ".json", beside=(".safetensors",))  # as commands do before they work
    monkeypatch.undo()
    assert module.Allocation.load(allocation.save(tmp_path / "b.json")).tensors == tensors


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
