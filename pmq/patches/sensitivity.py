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
        if place is None:
            products = torch.zeros(1, n_images, 1)
        else:
            products = _squared_products(place, [-x, *changes], gradients, n_images)  # (K, B, T)
            if orders is not None:
                products = products.gather(2, orders.of(recorder, component.name).expand_as(products))
        return torch.stack([products.sum(1), products.square().sum(1)])

    scored_components = _scored_components(probe, places, ranker)
    orders = None if ranker is None else _Orders(ranker, places, probe, scored_components)
    sums = sum_scores(probe, {name: list(choices.get(name, [FLOAT])) for name in scored_components}, sampled_label_losses, score)
    n, errors = len(probe.images), {}
    for name in places:
        mean, square = sums[name] / n
        noise = (square - mean.square()).clamp_min(0) / max(1, n - 1)
        errors[name] = TokenErrors((0, *(choice.bits for choice in choices[name])), mean.numpy(), noise.numpy())
    return errors


class _Orders:
    """Orders of the tokens of each batch, by the scores that rank them at run time.

    A score depends on what the forward pass computed earlier, while components are scored from the last stage to the first.
    So all orders of a batch are computed, in the order of the forward pass, when the first one is asked for.
    """

    def __init__(self, ranker: Ranker, places: Mapping[str, Patchable], probe: Probe, names: Sequence[str]) -> None:
        self._ranker, self._places = ranker, places
        self._components = [probe.simulator.inventory[name] for name in names]
        self._recorder: Recorder | None = None
        self._orders: dict[str, Tensor] = {}

    def of(self, recorder: Recorder, name: str) -> Tensor:
        """Return the order of an activation's tokens ``(B, T)`` in the batch that ``recorder`` has recorded."""
        if self._recorder is not recorder:
            self._recorder, self._orders = recorder, {}
            self._ranker.forget()
            for component in self._components:
                x = recorder.inputs[component.name]
                if component.name in self._places:
                    self._orders[component.name] = _token_order(self._ranker, self._places[component.name], x)
                if component.slot == "softmax":
                    self._ranker.saw(x)
        return self._orders[name]


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
