"""What a stopped command says it kept is what it can go on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from torch import nn

from pmq.core import checkpoints
from pmq.core.errors import Stopped
from pmq.core.rundir import RunDir
from pmq.core.tensors import TensorFile
from pmq.pipeline.distillation_state import STATE, restored
from pmq.quant.reconstruction.checkpoint import Checkpoints

FILE = TensorFile.of({"history": np.zeros(1)})


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    checkpoints.forget()
    yield
    checkpoints.forget()


def test_nothing_is_kept_by_a_run_that_only_begins(tmp_path: Path) -> None:
    RunDir(tmp_path, {})
    assert checkpoints.resume_hint() is None


def test_a_stop_before_or_after_a_line_is_written_tells_what_the_journal_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    @contextmanager
    def stopped(path: Path, *arguments: str, write: bool, **encoding: str) -> Iterator[IO[Any]]:
        with opened(path, *arguments, **encoding) as file:  # type: ignore[call-overload]
            if write:
                yield file
        raise Stopped(15)

    run = RunDir(tmp_path, {})
    for write in (False, True):
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(Path, "open", partialmethod(stopped, write=write))
            run.record("x", {"error": 1.0})
        assert (checkpoints.resume_hint() is not None) == write


def test_the_run_comes_before_what_is_learned_below_it(tmp_path: Path) -> None:
    RunDir(tmp_path, {}).record("x", {"error": 1.0})
    Checkpoints(tmp_path / "learned").save(0, FILE)
    assert checkpoints.resume_hint() == f"what was measured is kept in '{tmp_path}', go on with the same command and `resume`"


def test_learned_blocks_need_no_flag(tmp_path: Path) -> None:
    learned = Checkpoints(tmp_path)
    assert learned.load(0) is None
    assert checkpoints.resume_hint() is None
    Checkpoints(None).save(0, FILE)
    assert checkpoints.resume_hint() is None
    learned.save(0, FILE)
    said = f"what was learned is kept in '{tmp_path}', the same command resumes from there"
    assert checkpoints.resume_hint() == said
    checkpoints.forget()
    assert learned.load(0) is not None
    assert checkpoints.resume_hint() == said


def test_epochs_reached_by_an_earlier_process_are_kept(tmp_path: Path) -> None:
    class Distiller:
        def restore(self, arrays: object) -> None:
            pass

    restored(tmp_path / STATE, Distiller(), nn.Module())  # type: ignore[arg-type]
    assert checkpoints.resume_hint() is None
    (tmp_path / STATE).write_bytes(FILE.data)
    restored(tmp_path / STATE, Distiller(), nn.Module())  # type: ignore[arg-type]
    assert str(checkpoints.resume_hint()).endswith("`resume`")
