"""Sensitivity estimated from the empirical Fisher information of all components at once, by a few backward passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.component import Component
from pmq.metrics.base import Entry, Metric, Probe, register
from pmq.metrics.passes import Losses, Recorder, Score, inner_products, sum_scores, table_entries
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.quant.gradients import DRAWS, log_likelihoods


@register
class EmpiricalFisher(Metric):
    """Half the mean of ``(g . d)**2`` over images and drawn labels.

    ``g`` is the gradient, at a component's output, of the log-likelihood of a label drawn from the model's own softmax;
    ``d`` is the error of that output when the component is quantized. This is the second-order expansion of the KL
    divergence, whose Hessian is the Fisher information. A feature extractor has no labels; random directions in its
    feature space replace them.
    """

    name = "fisher"
    piecewise = False
    remeasured_each_round = True

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Entry]:
        return _fisher_entries(probe, choices, by_image)


@register
class ElementwiseFisher(Metric):
    """Half the mean of ``sum(g**2 * d**2)`` at a layer's output, which is the diagonal of the Fisher information.

    Gradient-based tools such as NVIDIA Model Optimizer's ``auto_quantize`` use this score. The error of a weight is taken
    at its layer's output, the error of an activation at the activation itself.
    """

    name = "fisher_elementwise"
    piecewise = False
    remeasured_each_round = True

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Entry]:
        return _fisher_entries(probe, choices, elementwise)


def sampled_label_losses(probe: Probe) -> Losses:
    """Return the losses of a batch: log-likelihoods of labels drawn from the model's own softmax."""

    def losses(first: int, output: Tensor) -> list[Tensor]:
        # One generator per batch, so that a resumed run draws the same labels as an uninterrupted one.
        generator = torch.Generator().manual_seed(probe.seed * 1_000_003 + first)
        return log_likelihoods(output, probe.task, generator)

    return losses


def _fisher_entries(probe: Probe, choices: Mapping[str, list[Choice]], score: Score) -> Iterator[Entry]:
    return table_entries(sum_scores(probe, choices, sampled_label_losses, score), choices, 0.5 / (DRAWS * len(probe.images)))


def by_image(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    """Return the sum of ``(g . d)**2`` over draws and images: ``(choices,)``."""
    return inner_products(recorder, component, changes, gradients, n_images).square().sum((1, 2))


def elementwise(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    """Return the sum of ``g**2 * d**2`` over draws and values: ``(choices,)``."""
    squares = gradients.square().sum(0)
    if component.role == "activation":
        return torch.stack([(squares * d.square()).sum() for d in changes])
    if not recorder.has_rows(component):
        return torch.stack([(squares * recorder.output_change(component, d).square()).sum() for d in changes])
    rows, squares = recorder.rows(component, n_images), recorder.output_rows(component, squares, n_images)
    return torch.stack([((rows @ d.flatten(1).T).square_() * squares).sum() for d in changes])
