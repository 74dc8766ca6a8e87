"""Sensitivity as SNIP's connection sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.component import Component
from pmq.metrics.base import Entry, Metric, Probe, register
from pmq.metrics.passes import Losses, Recorder, sum_scores, table_entries
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.quant import to_logits


@register
class ConnectionSensitivity(Metric):
    """Sum of ``|g * d|`` over a component's values: SNIP (1810.02340), with the rounding error in place of the whole value.

    ``g`` is the gradient of the loss at the label that the model itself predicts; for a weight, which the images of a
    batch share, it is summed over the batch.
    """

    name = "snip"
    piecewise = False

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Entry]:
        return table_entries(sum_scores(probe, choices, _losses_of, _absolute_products), choices, 1 / len(probe.images))


def _losses_of(probe: Probe) -> Losses:
    """Return the loss of a batch: the negative log-likelihood of the labels that the model predicts."""

    def losses(first: int, output: Tensor) -> list[Tensor]:
        if not probe.task.decides:
            return [output.flatten(1).norm(dim=1).sum()]
        return [-torch.log_softmax(to_logits(output, probe.task), -1).amax(-1).sum()]

    return losses


def _absolute_products(
    recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int
) -> Tensor:
    (gradient,) = gradients
    if component.role == "weight":
        gradient = recorder.weight_gradient(component, gradient)
    return torch.stack([(gradient * d).abs().sum() for d in changes])
