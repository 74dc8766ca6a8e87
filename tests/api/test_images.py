"""Images as users hand them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pmq.core import PmqError
from pmq.pipeline.images import gather_images, pairs

IMAGES = torch.rand(6, 3, 4, 4)


def inference() -> torch.Tensor:
    with torch.inference_mode():
        return IMAGES.clone()


@pytest.mark.parametrize(
    "images",
    [IMAGES, IMAGES.double(), IMAGES.clone().requires_grad_(), inference(), [IMAGES[:2], (IMAGES[2:], torch.zeros(4))]],
    ids=["plain", "double", "with gradients", "of inference", "batches"],
)
def test_images_are_floats_that_gradients_can_be_taken_with(images: Any) -> None:
    found = gather_images(images, 10)
    assert torch.equal(found, IMAGES)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.autograd.grad((found.requires_grad_() ** 2).sum(), found)
    first, batches = pairs(images)
    assert torch.equal(first, IMAGES[:1])
    assert torch.equal(torch.cat([x for x, _ in batches]), IMAGES)


def test_the_type_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    gather_images([IMAGES.half(), IMAGES.half()], 12)
    assert capsys.readouterr().err == "images are float16: taken as FP32\n"


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ((IMAGES * 255).byte(), "images are uint8, so not preprocessed"),
        ([IMAGES, IMAGES[:, :, :2]], r"of shapes \(3, 4, 4\) and \(3, 2, 4\)"),
        ([IMAGES / 0], "NaN or infinite"),
        (IMAGES[0], "not \\(3, 4, 4\\)"),
        ([[]], "not list"),
        ([], "no images were given"),
    ],
    ids=["bytes", "shapes", "infinite", "one", "empty batch", "none"],
)
def test_others_get_one_line(images: Any, told: str) -> None:
    with pytest.raises(PmqError, match=told):
        gather_images(images, 20)


def test_no_batches_to_evaluate() -> None:
    with pytest.raises(PmqError, match="no images were given to evaluate on"):
        pairs([])
