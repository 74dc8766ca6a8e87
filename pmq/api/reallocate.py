"""Bits of single tokens under an allocation, chosen anew within the bit operations that it takes."""

from __future__ import annotations

from torch import Tensor, nn

from pmq.core import Allocation
from pmq.cost import LatencyTable
from pmq.pipeline.modes import undisturbed
from pmq.pipeline.patches.reallocator import SCORE, Reallocator


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
    """Give each patch bits of its own in each layer, within ``share`` of the bit operations that an allocation takes.

    Args:
        model: a timm-built module (left as it is), or timm's name, or ``None`` for the embedded one.
        allocation: with its tensors.
        images: ``(N, C, H, W)``, as :class:`Reallocator` takes them.
        kind: ``static``: bits of each position; ``dynamic``: of each rank, tokens being ranked image by image by ``score``.
        share: of the allocation's bit operations.
        score: see :mod:`pmq.quant.token_scores`.
        latency: table that predicts the milliseconds of what is found.
        crop_pct: how images are cropped, where the model's data config says otherwise.
        seed: of drawn labels.

    Raises:
        PmqError: the allocation is of another model, has no activations with tokens, or ``share`` is below what all tokens
            take at 0 bits; or there are fewer than 8 images.
    """
    return Reallocator(model, allocation, images, crop_pct, seed, latency).allocate(kind, share, score)
