"""Estimated sensitivity: empirical Fisher information from a few backward passes, for all components at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.component import Component
from pmq.metrics.base import Found, Metric, Probe, register
from pmq.metrics.passes import Losses, Recorder, Score, entries, inner_products, scored
from pmq.metrics.table import SensitivityTable
from pmq.quant.gradients import DRAWS, log_likelihoods


@register
class EmpiricalFisher(Metric):
    """Half the mean of ``(g . d)**2`` over images and drawn labels.

    ``g`` is the gradient, at a component's output, of the log-likelihood of a label drawn from the model's own softmax;
    ``d`` is the error of that output when the component is quantized. This is the second-order expansion of the KL
    divergence whose Hessian is the Fisher information. A feature extractor has no labels: random directions in the space
    of its features take their place.
    """

    name = "fisher"
    piecewise = False
    renewed = True

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Found]:
        return _halved(probe, choices, by_image)


@register
class ElementwiseFisher(Metric):
    """Half the mean of ``sum(g**2 * d**2)`` at a layer's output: the diagonal of the Fisher information.

    What gradient-based tools score with (NVIDIA Model Optimizer's ``auto_quantize``). Errors of a weight are taken at the
    output of its layer, those of an activation at itself.
    """

    name = "fisher_elementwise"
    piecewise = False
    renewed = True

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Found]:
        return _halved(probe, choices, elementwise)


def draws_of(probe: Probe) -> Losses:
    """Log-likelihoods of drawn labels as losses."""

    def losses(first: int, output: Tensor) -> list[Tensor]:
        # A generator for each batch: a run that is gone on with draws as one that was not killed.
        generator = torch.Generator().manual_seed(probe.seed * 1_000_003 + first)
        return log_likelihoods(output, probe.task, generator)

    return losses


def _halved(probe: Probe, choices: Mapping[str, list[Choice]], score: Score) -> Iterator[Found]:
    return entries(scored(probe, choices, draws_of(probe), score), choices, 0.5 / (DRAWS * len(probe.images)))


def by_image(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    """Sum of ``(g . d)**2`` over draws and images: ``(choices,)``."""
    return inner_products(recorder, component, changes, gradients, n_images).square().sum((1, 2))


def elementwise(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    """Sum of ``g**2 * d**2`` over draws and values: ``(choices,)``."""
    squares = gradients.square().sum(0)
    if component.role == "activation":
        return torch.stack([(squares * d.square()).sum() for d in changes])
    if not recorder.has_rows(component):
        return torch.stack([(squares * recorder.output_change(component, d).square()).sum() for d in changes])
    rows, squares = recorder.rows(component, n_images), recorder.output_rows(component, squares, n_images)
    errors = (rows @ torch.cat([d.flatten(1) for d in changes]).T).square_()
    return (errors.unflatten(-1, (len(changes), -1)) * squares[..., None, :]).sum((0, 1, 3))
