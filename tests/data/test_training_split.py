"""The division of images into those that train and those that select the best epoch."""

from __future__ import annotations

import pytest
import torch

from pmq.core import PmqError
from pmq.data.open import Data
from pmq.data.source import ImageSource
from pmq.data.training_split import TrainingSplit


def source(count: int) -> ImageSource:
    return ImageSource([(torch.zeros(1, 2, 2), 0)] * count, "pictures")


def test_what_calibrated_trains_and_is_not_held_out() -> None:
    data = Data(source(100), source(50))
    order = data.calibration.draw(3)
    split = TrainingSplit.of(data, 3, n_calibrated=10, n_train=None, n_held_out=20, batch_size=8)
    assert split.held_out[:20] == order[10:30]
    assert split.train == order[:10] + order[30:]
    few = TrainingSplit.of(data, 3, n_calibrated=10, n_train=16, n_held_out=20, batch_size=8)
    assert few.train == order[:10] + order[30:36]
    assert few.n_used == 36


@pytest.mark.parametrize("n_train", [8, 12, 1000])
def test_an_evaluation_on_the_same_images_sees_none_that_were_used(n_train: int) -> None:
    both = source(100)
    data = Data(both, both)
    split = TrainingSplit.of(data, 3, n_calibrated=10, n_train=n_train, n_held_out=20, batch_size=8)
    used = {*split.train, *split.held_out[:20], *both.draw(3)[:10]}
    evaluated = set(data.evaluation_indices(split.n_used, 3))
    assert len(evaluated) >= 49
    assert not used & evaluated


def test_too_few_images_are_refused() -> None:
    data = Data(source(40), source(40))
    with pytest.raises(PmqError, match=r"has 40 images for training, of which 36 are held out, and 2 calibrated the model"):
        TrainingSplit.of(data, 0, n_calibrated=2, n_train=None, n_held_out=36, batch_size=8)
    with pytest.raises(PmqError, match="lower `n_held_out`"):
        TrainingSplit.of(data, 0, n_calibrated=30, n_train=8, n_held_out=20, batch_size=8)
