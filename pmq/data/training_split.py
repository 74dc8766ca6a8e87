"""The division of images into those that train and those that select the best epoch."""

from __future__ import annotations

from dataclasses import dataclass

from pmq.core.errors import PmqError
from pmq.data.open import Data


@dataclass(frozen=True)
class TrainingSplit:
    """Numbers of the images of a fine-tuning.

    Images that calibrated a model may train it, but do not select its best epoch, as they look too good.

    Attributes:
        train: images to learn from.
        held_out: images that select the best epoch, of which the first readable ones are taken.
        n_used: number of drawn images that an evaluation must exclude where it shares their source.
    """

    train: list[int]
    held_out: list[int]
    n_used: int

    @classmethod
    def of(cls, data: Data, seed: int, n_calibrated: int, n_train: int | None, n_held_out: int, batch_size: int) -> TrainingSplit:
        """Divide the images that calibration draws with a seed.

        Args:
            data: the images.
            seed: seed of the draw.
            n_calibrated: number of drawn images that calibrated the model.
            n_train: number of images to train on; by default all that are left, or half of them if evaluation shares them.
            n_held_out: number of images that select the best epoch.
            batch_size: images in a step, the least that are trained on.

        Raises:
            PmqError: there are too few images.
        """
        training = data.calibration
        order = training.draw(seed)
        available = len(order) // 2 if data.shared else len(order)
        count = min(n_train or available, available - n_held_out)
        if count < batch_size or n_calibrated + n_held_out > available:
            calibrated = f", and {n_calibrated} calibrated the model" if n_calibrated else ""
            raise PmqError(
                f"{training.name} has {available} images for training, of which {n_held_out} are held out{calibrated}; "
                "lower `n_held_out` or `batch_size`"
            )
        held_out, others = order[n_calibrated:], order[:n_calibrated] + order[n_calibrated + n_held_out :]
        return cls(others[:count], held_out, n_held_out + max(count, n_calibrated))
