"""Images in shards: cut at the same places whoever evaluates them, kept one by one, and the same figures in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pmq.core import PmqError
from pmq.core.journal import Journal
from pmq.core.task import CLASSIFICATION, Task
from pmq.data.image_shards import ImageShards
from pmq.data.source import ImageSource
from pmq.evaluation import LocalExecutor, evaluate_models
from pmq.evaluation.comparison import Comparison, ImageSums
from pmq.evaluation.sharded import evaluate_shards
from pmq.quant import Simulator
from tests.conftest import Tiny, make_tiny

COUNT, FIRST, BATCH = 50, 5, 6


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of three batches, a tenth of the images may be unreadable, and bfloat16 is checked on two batches."""
    monkeypatch.setattr("pmq.data.image_shards.SHARD_IMAGES", 16)
    monkeypatch.setattr("pmq.data.source.TOLERATED", 0.1)
    monkeypatch.setattr("pmq.evaluation.comparison.AMP_CHECKED", 12)


class Pictures:
    """Random images of which some are unreadable."""

    def __init__(self, unreadable: tuple[int, ...] = ()) -> None:
        self.images, self.unreadable = torch.randn(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(3)), unreadable

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index in self.unreadable:
            raise OSError("damaged")
        return self.images[index], index % 7


def shards(unreadable: tuple[int, ...] = (), workers: int = 0) -> ImageShards:
    return ImageShards(ImageSource(Pictures(unreadable), "pictures", workers), range(FIRST, COUNT), BATCH)


def comparison(simulator: Simulator, tiny: Tiny, task: Task = CLASSIFICATION, **more: Any) -> Comparison:
    simulator.apply(tiny.space.uniform(4, 4))
    reference = make_tiny()
    return Comparison(reference, [simulator.model, reference], task, **more)


def without_speed(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "images_per_s"} for row in figures]


def test_shards_are_whole_batches_and_cover_all_images() -> None:
    images = shards()
    assert images.shard_images == 18
    assert len(images) == 3
    assert [i for shard in range(3) for i in images.indices_of(shard)] == list(range(FIRST, COUNT))
    batches = list(images.read([2, 0]))
    assert [batch.shard for batch in batches] == [2] * 2 + [0] * 3
    torch.testing.assert_close(batches[2].images, images.source.dataset.dataset.images[FIRST : FIRST + BATCH])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_evaluation_has_the_figures_of_an_undisturbed_one(
    simulator: Simulator, tiny: Tiny, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, unreadable = comparison(simulator, tiny), (7, 30)
    images = shards(unreadable, workers)
    batches = ImageSource(Pictures(unreadable), "pictures").batches(BATCH, range(FIRST, COUNT))
    expected = without_speed(evaluate_models(models.reference, models.models, batches, CLASSIFICATION))
    assert without_speed(evaluate_shards(models, images, LocalExecutor(), None)) == expected
    assert len(images.source.unreadable) == 2

    class Killed(Exception):
        pass

    record = Journal.record

    def killing(journal: Journal, key: str, value: dict[str, Any]) -> None:
        record(journal, key, value)
        raise Killed

    for finished in (1, 2):  # each attempt finishes one shard
        monkeypatch.setattr(Journal, "record", killing)
        with pytest.raises(Killed):
            evaluate_shards(models, shards(unreadable, workers), LocalExecutor(), Journal(tmp_path / "journal.jsonl"))
        assert len(Journal(tmp_path / "journal.jsonl")) == finished
    monkeypatch.setattr(Journal, "record", record)
    images, evaluated = shards(unreadable, workers), list[int]()
    add = Comparison.add

    def counted(self: Comparison, sums: ImageSums, batch: Tensor, labels: Tensor | None, check_amp: bool) -> None:
        evaluated.append(len(batch))
        add(self, sums, batch, labels, check_amp)

    monkeypatch.setattr(Comparison, "add", counted)
    assert without_speed(evaluate_shards(models, images, LocalExecutor(), Journal(tmp_path / "journal.jsonl"))) == expected
    assert sum(evaluated) == COUNT - FIRST - 2 * 18  # the last shard alone
    assert len(images.source.unreadable) == 2


def test_bfloat16_and_metrics_of_the_whole_set_are_as_without_shards(simulator: Simulator, tiny: Tiny, tmp_path: Path) -> None:
    def share(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).double().mean())

    models = comparison(simulator, tiny, amp=True, collects=True)
    batches = ImageSource(Pictures(), "pictures").batches(BATCH, range(FIRST, COUNT))
    expected = evaluate_models(models.reference, models.models, batches, CLASSIFICATION, True, share)
    journal = Journal(tmp_path / "journal.jsonl")
    assert without_speed(evaluate_shards(models, shards(), LocalExecutor(), journal, share)) == without_speed(expected)
    assert not journal  # outputs are not kept in a journal


def test_too_many_unreadable_images_in_all_shards_are_an_error(simulator: Simulator, tiny: Tiny) -> None:
    models = comparison(simulator, tiny)
    with pytest.raises(PmqError, match="5 of 45 images in pictures cannot be read"):
        evaluate_shards(models, shards(tuple(range(10, 50, 8))), LocalExecutor(), None)


def test_the_identity_changes_with_files_and_with_the_choice_of_images(tmp_path: Path) -> None:
    class Files(Pictures):
        files = (str(tmp_path / "a"),)

    (tmp_path / "a").write_text("one")
    source = ImageSource(Files(), "files")
    before = source.identity(range(5))
    assert source.identity(range(5)) == before
    assert source.identity(range(6)) != before
    (tmp_path / "a").write_text("three")
    assert source.identity(range(5)) != before
