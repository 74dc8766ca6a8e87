"""Fine-tuning of pruned models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import pmq
from pmq.core import FLOAT, Allocation, PmqError
from pmq.core.choice import ComponentChoice
from pmq.core.rundir import CHOSEN
from pmq.core.tensors import TensorFile
from pmq.models.distil import augment, mixed
from pmq.pipeline.distillation_state import STATE
from pmq.pipeline.pruned_model import load_pruned
from tests.conftest import make_tiny


class Source:
    """Images by number; may fail at one, as a killed run does."""

    def __init__(self, images: torch.Tensor, fails_at: int = -1) -> None:
        self.images, self.left = images, fails_at

    def batches(self, batch_size: int, indices: list[int]) -> Iterator[tuple[torch.Tensor, None]]:
        for at in range(0, len(indices), batch_size):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield self.images[indices[at : at + batch_size]], None


@pytest.fixture(scope="module")
def pruned(images: torch.Tensor) -> Allocation:
    return pmq.prune(make_tiny(), images[:16], 0.5, importance="random").allocation


def test_it_learns_and_keeps_its_best(pruned: Allocation, images: torch.Tensor, tmp_path: Path) -> None:
    many = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    options = {"epochs": 4, "rate": 3e-3, "batch_size": 16, "vary": False}
    found = pmq.finetune(make_tiny(), pruned, Source(many), list(range(128)), images[16:], out=tmp_path, **options)
    assert found.after == min(found.history) < 0.7 * found.before
    assert len(found.history) == 5
    kept = Allocation.load(tmp_path / CHOSEN)
    assert kept.pruning.units == pruned.pruning.units
    assert kept.pruning.weights_sha256 != pruned.pruning.weights_sha256
    (kl,) = pmq.evaluate(make_tiny(), kept, [images[16:]])["kl"]
    assert kl == pytest.approx(found.after, rel=1e-4)
    assert load_pruned(kept, make_tiny())(images[:2]).shape == (2, 7)


def test_killed_and_resumed_ends_where_undisturbed_does(pruned: Allocation, images: torch.Tensor, tmp_path: Path) -> None:
    options = {"epochs": 3, "rate": 1e-3, "batch_size": 8}
    given = (make_tiny(), pruned)
    whole = pmq.finetune(*given, Source(images), list(range(24)), images[24:], out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        pmq.finetune(*given, Source(images, 4), list(range(24)), images[24:], out=tmp_path / "cut", **options)
    assert (tmp_path / "cut" / STATE).is_file()
    with pytest.raises(PmqError, match="holds a run already"):
        pmq.finetune(*given, Source(images), list(range(24)), images[24:], out=tmp_path / "cut", **options)
    with pytest.raises(PmqError, match="its rate was"):
        other = options | {"rate": 1e-2}
        pmq.finetune(*given, Source(images), list(range(24)), images[24:], out=tmp_path / "cut", resume=True, **other)
    again = pmq.finetune(*given, Source(images), list(range(24)), images[24:], out=tmp_path / "cut", resume=True, **options)
    assert again.history == pytest.approx(whole.history, rel=1e-5)
    assert again.allocation.pruning.weights_sha256 == whole.allocation.pruning.weights_sha256


@pytest.mark.parametrize("part", ["best", "parameter", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("damage", ["turned", "lost", "halves"])
def test_what_is_not_as_the_model_is_not_gone_on_from(
    part: str, damage: str, pruned: Allocation, images: torch.Tensor, tmp_path: Path
) -> None:
    options = {"epochs": 2, "rate": 1e-3, "batch_size": 8, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        pmq.finetune(make_tiny(), pruned, Source(images, 4), list(range(24)), images[24:], **options)
    arrays = dict(TensorFile.read(tmp_path / "run" / STATE).arrays())
    name = f"{part}/blocks.0.mlp.fc2.weight"
    if damage == "lost":
        del arrays[name]
    else:
        arrays[name] = arrays[name].T.copy() if damage == "turned" else arrays[name].astype("float16")
    (tmp_path / "run" / STATE).write_bytes(TensorFile.of(arrays).data)
    with pytest.raises(PmqError, match=r"is not of this model: .*blocks\.0\.mlp\.fc2\.weight"):
        pmq.finetune(make_tiny(), pruned, Source(images), list(range(24)), images[24:], resume=True, **options)


def test_what_is_neither_pruned_nor_quantized_is_refused(searched: Allocation, images: torch.Tensor, tmp_path: Path) -> None:
    fp32 = searched.model_copy(update={"components": {n: ComponentChoice(**FLOAT.model_dump()) for n in searched.components}})
    with pytest.raises(PmqError, match="no pruned model and all in FP32"):
        pmq.finetune(make_tiny(), fp32, Source(images), [0], images, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_variations_keep_what_images_are_like() -> None:
    images = torch.rand(8, 3, 16, 16)
    found = augment(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, images)
    constant = augment(torch.full((4, 1, 8, 8), 0.3), torch.Generator().manual_seed(1))
    torch.testing.assert_close(constant, torch.full((4, 1, 8, 8), 0.3))


def test_blends_lie_between_two_images() -> None:
    images = torch.eye(6).reshape(6, 1, 2, 3).repeat(1, 3, 1, 1)
    found = mixed(images, torch.Generator().manual_seed(0))
    shares = found[:, 0].flatten(1)  # of each image in each blend
    torch.testing.assert_close(shares.sum(1), torch.ones(6))
    assert (shares >= 0).all()
    assert ((shares > 0).sum(1) <= 2).all()
    assert ((shares > 0).sum(1) == 2).any()
    torch.testing.assert_close(found[:, 1:], found[:, :1].expand(-1, 2, -1, -1))
