"""Modules of users behave as the plain ones in every command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pmq
from pmq.core import Allocation, PmqError
from pmq.pipeline.search import explore
from pmq.pipeline.subject import Subject
from pmq.pipeline.torch_modes import undisturbed
from tests.asked import asked
from tests.conftest import make_tiny

QUICK: dict[str, Any] = {"space": "w4a8", "recipe": "fast", "n_calibration": 4, "n_held_out": 8, "n_rounds": 1}


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """What is searched for here is not the best front."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "nsga2", partial(explore.nsga2, generations=2))
        yield


class Dictionary(nn.Module):
    """Tells neither its classes nor its image size, gives a dictionary, and has two names for its head."""

    def __init__(self, give: Callable[[Tensor], Any] = lambda y: {"logits": y}) -> None:
        super().__init__()
        self.vit, self.give = make_tiny(), give
        self.vit.patch_embed.img_size = None  # type: ignore[union-attr]
        self.last = self.vit.head

    def forward(self, x: Tensor) -> Any:
        return self.give(self.vit(x))


@pytest.fixture(scope="module")
def found(images: Tensor) -> Allocation:
    return pmq.search(make_tiny(), images, "w4a8", **asked(**QUICK)).allocation


def test_a_search_finds_the_same_whatever_is_around_it(images: Tensor, found: Allocation) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        again = pmq.search(nn.DataParallel(make_tiny()), images.clone(), "w4a8", **asked(**QUICK)).allocation
    assert again.assignment == found.assignment
    assert again.metrics == found.metrics
    assert again.tensors == found.tensors


def test_an_allocation_is_one_of_the_wrapped_model_too(images: Tensor, found: Allocation) -> None:
    wrapped = nn.DataParallel(make_tiny().double())
    assert torch.equal(pmq.simulate(wrapped, found)(images), pmq.simulate(make_tiny(), found)(images))
    with torch.inference_mode():
        table = pmq.evaluate(wrapped, [found, "fp32"], (batch.double() for batch in images.split(16)))
    assert table["agreement"].tolist() == pmq.evaluate(make_tiny(), [found, "fp32"], images)["agreement"].tolist()


def test_a_module_that_tells_nothing_is_served(images: Tensor) -> None:
    model = Dictionary()
    allocation = pmq.search(model, images, "w4a8", **asked(**QUICK)).allocation
    assert allocation.task == "classification"
    assert allocation.model.num_classes == 7
    assert allocation.model.data_config["input_size"] == [3, 32, 32]
    assert pmq.simulate(model, allocation)(images).shape == (40, 7)
    assert pmq.evaluate(model, allocation, images)["agreement"][0] > 50


def test_a_pruned_model_is_one_of_the_wrapped_model_too(images: Tensor) -> None:
    wrapped = nn.DataParallel(make_tiny().double())
    with torch.inference_mode():
        pruned = pmq.prune(wrapped, images.clone(), importance="magnitude", n_calibration=8)
    plain = pmq.prune(make_tiny(), images, importance="magnitude", n_calibration=8)
    assert pruned.allocation.tensors == plain.allocation.tensors
    assert torch.equal(
        pmq.load_pruned(pruned.allocation, wrapped)(images), pmq.load_pruned(plain.allocation, make_tiny())(images)
    )


def test_a_module_that_gives_a_dictionary_is_deployed(images: Tensor, tmp_path: Path) -> None:
    done = pmq.deploy(Dictionary(), "w8a8", "onnxruntime", images[:8], tmp_path, calibration_images=images[8:16], n_passes=1)
    assert done.passed


@pytest.mark.parametrize(
    ("give", "task", "found"),
    [
        (lambda y: y, "auto", "features"),
        (lambda y: y, "classification", "classification"),
        (lambda y: {"logits": y[:, :1]}, "auto", "binary"),
        (lambda y: {"logits": y}, "regression", "regression"),
        (lambda y: y[:, None], "features", "features"),
    ],
)
def test_the_task_follows_from_what_is_known(images: Tensor, give: Callable[[Tensor], Any], task: str, found: str) -> None:
    assert Subject.of(Dictionary(give), images=images[:2], task=task).task.name == found


@pytest.mark.parametrize(
    ("give", "task", "told"),
    [
        (lambda y: {"logits": y[:, None]}, "auto", r"outputs of shape \(1, 1, 7\) for one image do not fit task"),
        (lambda y: y / 0, "auto", "FP32 outputs are not finite; .* is the model itself"),
        (lambda y: y.squeeze(), "auto", r"returns shape \(7,\) for a batch of 1; outputs must be \(B, ...\)"),
        (lambda y: y[:1], "auto", r"returns shape \(1, 7\) for a batch of 2"),
        (lambda y: y @ y, "auto", r"fails on an image of shape \(3, 32, 32\): .*; it was built for \(3, 224, 224\)"),
        (lambda y: y[:, :, None] @ y, "auto", r"fails on 2 images of shape \(3, 32, 32\)"),
    ],
    ids=["no rows of logits", "infinite", "squeezed", "one for all", "fails", "fails on batches"],
)
def test_outputs_that_cannot_be_used_get_one_line(images: Tensor, give: Callable[[Tensor], Any], task: str, told: str) -> None:
    with pytest.raises(PmqError, match=told):
        Subject.of(Dictionary(give), images=images[:2], task=task)


def test_shapes_are_the_reason_only_where_they_are(images: Tensor) -> None:
    with pytest.raises(PmqError, match=r"fails on an image of shape \(3, 16, 16\): .*; it was built for \(3, 32, 32\)"):
        Subject.of(make_tiny(), images=images[:2, :, :16, :16])

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = make_tiny()

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of order")

    with pytest.raises(PmqError, match=r"fails on an image of shape \(3, 32, 32\): out of order$"):
        Subject.of(Broken(), images=images[:2])


def test_weights_that_are_not_finite_stop_every_command(images: Tensor) -> None:
    model: Any = make_tiny()
    model.norm.weight.data[0] = torch.nan
    for run in (
        lambda: pmq.search(model, images, "w4a8", **asked(**QUICK)),
        lambda: pmq.evaluate(model, "fp32", images),
        lambda: pmq.deploy(model, "fp32", "onnxruntime", images, "never"),
        lambda: pmq.prune(model, images),
        lambda: pmq.sensitivity(model, images),
    ):
        with pytest.raises(PmqError, match=r"'norm\.weight' of the model contains NaN"):
            run()


def test_outputs_are_checked_on_all_images_of_an_evaluation() -> None:
    class Dividing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = make_tiny()

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x / x.std(dim=(1, 2, 3), keepdim=True))

    images = torch.rand(6, 3, 32, 32)
    images[4] = 0.5
    with pytest.raises(PmqError, match="not finite"):
        pmq.evaluate(Dividing(), "fp32", images.split(2))


def test_modes_end_with_the_command() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert undisturbed(lambda: (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))() == (True, False)
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
