"""The verb ``reallocate``."""

from __future__ import annotations

from torch import Tensor, nn

from pmq.core import Allocation
from pmq.cost import LatencyTable
from pmq.pipeline.patches.kinds import SCORE
from pmq.pipeline.patches.reallocator import Reallocator
from pmq.pipeline.torch_modes import undisturbed


@undisturbed
def reallocate(
    model: nn.Module | str | None,
    allocation: Allocation,
    images: Tensor,
    kind: str = "static",
    *,
    share: float = 1.0,
    score: str = SCORE,
    latency: LatencyTable | None = None,
    crop_pct: float | None = None,
    seed: int = 0,
) -> Allocation:
    """Give each patch bits of its own in each layer, within a share of an allocation's bit operations (2305.06559).

    Args:
        model: a module (left unchanged), a timm name, or ``None`` for the embedded model.
        allocation: the allocation with its tensors.
        images: images ``(N, C, H, W)``: first the calibration images, then images of which a third measures sensitivity and
            the rest evaluates maps.
        kind: ``static``: bits of each position; ``dynamic``: bits of each rank, with tokens ranked image by image by ``score``.
        share: share of the allocation's bit operations that may be used.
        score: score that ranks tokens, see :mod:`pmq.quant.token_scores`.
        latency: latency table that predicts the milliseconds of the result.
        crop_pct: crop of the images, where it differs from the model's data config.
        seed: seed of drawn labels.

    Returns:
        The allocation with its map of patches.

    Raises:
        PmqError: the allocation is of another model, has no activations with tokens, or ``share`` is less than all tokens
            use at 0 bits; or there are fewer than 8 images.
    """
    return Reallocator(model, allocation, images, crop_pct, seed, latency).allocate(kind, share, score)
