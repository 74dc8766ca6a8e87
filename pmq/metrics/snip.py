"""Connection sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.component import Component
from pmq.metrics.base import Found, Metric, Probe, register
from pmq.metrics.passes import Recorder, entries, scored
from pmq.metrics.table import SensitivityTable
from pmq.quant import to_logits


@register
class ConnectionSensitivity(Metric):
    """Sum over a component's values of ``|g * d|``: SNIP (1810.02340), with what rounding changes in place of all of it.

    ``g`` is the gradient of the loss at the label the model itself decides for, summed over a batch where a weight is
    shared by its images.
    """

    name = "snip"
    piecewise = False

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Found]:
        def losses(first: int, output: Tensor) -> list[Tensor]:
            if not probe.task.decides:
                return [output.flatten(1).norm(dim=1).sum()]
            return [-torch.log_softmax(to_logits(output, probe.task), -1).amax(-1).sum()]

        return entries(scored(probe, choices, losses, _absolute), choices, 1 / len(probe.images))


def _absolute(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    (gradient,) = gradients
    if component.role == "weight":
        gradient = recorder.weight_gradient(component, gradient)
    return torch.stack([(gradient * d).abs().sum() for d in changes])
