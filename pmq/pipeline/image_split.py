"""The division of images into those that calibrate, those that measure sensitivity, and those that evaluate candidates."""

from __future__ import annotations

from torch import Tensor

from pmq.core.errors import PmqError

#: default number of images that calibrate, and of held-out images, which measure sensitivity and evaluate candidates
CALIB_IMAGES, HELD_OUT = 32, 256
#: most images that measure sensitivity; more images change the table by less than its noise
PROBED = 64


def divide_images(images: Tensor, n_calibration: int, n_held_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """Divide images ``(N, C, H, W)`` into calibration, measuring and evaluating images, which do not overlap.

    Errors on an image look too small once something was fitted to it, so no image is used twice. A third of the held-out
    images, at most ``PROBED``, measure sensitivity; where there are fewer images than asked for, a third of all calibrates.

    Raises:
        PmqError: there are fewer than 8 images, or fewer than 6 held-out ones.
    """
    if len(images) < 8:
        raise PmqError(f"{len(images)} images are too few to calibrate, measure and evaluate; pass at least 8")
    if len(images) < n_calibration + n_held_out:
        n_calibration = min(n_calibration, len(images) // 3)
    held_out = images[n_calibration : n_calibration + n_held_out]
    n_probed = min(PROBED, len(held_out) // 3)
    if not n_probed or len(held_out) - n_probed < 4:
        raise PmqError(f"{len(held_out)} held-out images are too few to measure and evaluate; pass at least 6")
    return images[:n_calibration], held_out[:n_probed], held_out[n_probed:]
