"""The error that each token's quantization makes at the model's output, for all tokens from a few backward passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pmq.core.choice import FLOAT, Choice
from pmq.core.component import Component
from pmq.metrics.base import Probe
from pmq.metrics.fisher import draws_of
from pmq.metrics.passes import Recorder, scored
from pmq.patches.tokens import Patchable
from pmq.quant.gradients import DRAWS
from pmq.quant.token_scores import Ranker
from pmq.quant.tokens import by_token

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TokenErrors:
    """Of one activation: bits ``(K,)``, the first of which is 0, and the error of each token at each, ``(K, T)``.

    ``noise`` is the variance of these means over images. Tokens are positions, or ranks by a score.
    """

    bits: tuple[int, ...]
    error: Floats
    noise: Floats


def token_errors(
    probe: Probe, places: Mapping[str, Patchable], choices: Mapping[str, Sequence[Choice]], ranker: Ranker | None = None
) -> dict[str, TokenErrors]:
    """Half the mean of ``(g . d)**2`` over images and drawn labels, token by token.

    The Fisher metric with its token axis kept: ``g`` is the gradient at a token, ``d`` what a choice adds to the token;
    at 0 bits that takes the token away. Errors of different tokens are taken to be independent.

    Args:
        probe: model, images, and the allocation around which to measure.
        places: activations with tokens.
        choices: of each, at bits above 0.
        ranker: count tokens by its ranks, image by image, rather than by position.
    """

    def score(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
        place, x = places.get(component.name), recorder.inputs[component.name]
        if ranker is not None and component.name == asked[0]:
            ranker.forget()
        if place is None:
            found = torch.zeros(1, n_images, 1)
        else:
            found = _by_token(place, [-x, *changes], gradients, n_images)  # (K, B, T)
            if ranker is not None:
                found = found.gather(2, _order(ranker, place, x).expand_as(found))
        if ranker is not None and component.slot == "softmax":
            ranker.saw(x)
        return torch.stack([found.sum(1), found.square().sum(1)])

    asked = _asked(probe, places, ranker)
    sums = scored(probe, {name: list(choices.get(name, [FLOAT])) for name in asked}, draws_of(probe), score)
    n, found = len(probe.images), {}
    for name in places:
        mean, square = sums[name] / n
        noise = (square - mean.square()).clamp_min(0) / max(1, n - 1)
        found[name] = TokenErrors((0, *(choice.bits for choice in choices[name])), mean.numpy(), noise.numpy())
    return found


def _asked(probe: Probe, places: Mapping[str, Patchable], ranker: Ranker | None) -> list[str]:
    """In model order; where tokens are ranked, each softmax too."""
    return [c.name for c in probe.simulator.inventory if c.name in places or (ranker is not None and c.slot == "softmax")]


def _by_token(place: Patchable, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    """``(g . d)**2`` of each choice, image and token, summed over draws: ``(K, B, T)``."""
    found = []
    for change in changes:
        products = by_token(place.component, (gradients * change).flatten(0, 1), place.tokens).sum(-1)  # (draws B, [H,] T)
        products = products if products.ndim == 2 else products.sum(1)
        found.append(products.reshape(len(gradients), n_images, place.tokens).square().sum(0) / (2 * DRAWS))
    return torch.stack(found)


def _order(ranker: Ranker, place: Patchable, x: Tensor) -> Tensor:
    """Of tokens ``(B, T)`` by the score that the activation is ranked by at run time."""
    module = place.component.module
    if place.component.slot == "input":
        return ranker.order(module.rpartition(".")[0], by_token(place.component, x, place.tokens))
    return ranker.known(module)
