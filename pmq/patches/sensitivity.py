"""Errors at the model's output that quantizing each token causes, for all tokens from a few backward passes."""

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
from pmq.metrics.fisher import sampled_label_losses
from pmq.metrics.passes import Recorder, sum_scores
from pmq.patches.tokens import Patchable
from pmq.quant.gradients import DRAWS
from pmq.quant.token_scores import Ranker
from pmq.quant.tokens import by_token

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TokenErrors:
    """Errors of the tokens of one activation.

    Attributes:
        bits: ``(K,)`` bit-widths, the first of which is 0.
        error: ``(K, T)`` error of each token at each bit-width. Tokens are positions, or ranks by a score.
        noise: ``(K, T)`` variance of these means over images.
    """

    bits: tuple[int, ...]
    error: Floats
    noise: Floats


def token_errors(
    probe: Probe, places: Mapping[str, Patchable], choices: Mapping[str, Sequence[Choice]], ranker: Ranker | None = None
) -> dict[str, TokenErrors]:
    """Return half the mean of ``(g . d)**2`` over images and drawn labels, for each token.

    This is the Fisher metric with its token axis kept: ``g`` is the gradient at a token, ``d`` what a choice adds to the
    token; 0 bits remove the token. Errors of different tokens are assumed to be independent.

    Args:
        probe: model, images, and the allocation around which errors are measured.
        places: activations with tokens.
        choices: choices of each activation, at bits above 0.
        ranker: ranks the tokens of each image, so that errors are summed by rank instead of position.
    """

    def score(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
        place, x = places.get(component.name), recorder.inputs[component.name]
        if ranker is not None and component.name == scored_components[0]:
            ranker.forget()
        if place is None:
            products = torch.zeros(1, n_images, 1)
        else:
            products = _squared_products(place, [-x, *changes], gradients, n_images)  # (K, B, T)
            if ranker is not None:
                products = products.gather(2, _token_order(ranker, place, x).expand_as(products))
        if ranker is not None and component.slot == "softmax":
            ranker.saw(x)
        return torch.stack([products.sum(1), products.square().sum(1)])

    scored_components = _scored_components(probe, places, ranker)
    sums = sum_scores(probe, {name: list(choices.get(name, [FLOAT])) for name in scored_components}, sampled_label_losses, score)
    n, errors = len(probe.images), {}
    for name in places:
        mean, square = sums[name] / n
        noise = (square - mean.square()).clamp_min(0) / max(1, n - 1)
        errors[name] = TokenErrors((0, *(choice.bits for choice in choices[name])), mean.numpy(), noise.numpy())
    return errors


def _scored_components(probe: Probe, places: Mapping[str, Patchable], ranker: Ranker | None) -> list[str]:
    """Return the components to score in model order; if tokens are ranked, each softmax too."""
    return [c.name for c in probe.simulator.inventory if c.name in places or (ranker is not None and c.slot == "softmax")]


def _squared_products(place: Patchable, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    """Return ``(g . d)**2`` of each choice, image and token, summed over draws: ``(K, B, T)``."""
    squares = []
    for change in changes:
        products = by_token(place.component, (gradients * change).flatten(0, 1), place.tokens).sum(-1)  # (draws B, [H,] T)
        products = products if products.ndim == 2 else products.sum(1)
        squares.append(products.reshape(len(gradients), n_images, place.tokens).square().sum(0) / (2 * DRAWS))
    return torch.stack(squares)


def _token_order(ranker: Ranker, place: Patchable, x: Tensor) -> Tensor:
    """Return the order of tokens ``(B, T)`` by the score that ranks the activation at run time."""
    module = place.component.module
    if place.component.slot == "input":
        return ranker.order(module.rpartition(".")[0], by_token(place.component, x, place.tokens))
    return ranker.known(module)
