"""First-order sensitivity around a quantized allocation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.component import Component
from pmq.metrics.base import Entry, Metric, Probe, register
from pmq.metrics.fisher import sampled_label_losses
from pmq.metrics.passes import Losses, Recorder, inner_products, sum_scores, table_entries
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.quant.gradients import DRAWS, output_loss


@register
class FirstOrder(Metric):
    """First-order change of the output's error around the base, plus half the Fisher information there.

    This is the second-order expansion of the error around the base: its gradient times the component's change, plus the
    Fisher term. Gradients pass through quantizers unchanged (straight-through). Around FP32 the gradient is zero and the
    metric equals ``fisher``. Errors are relative to the base's own error; negative values are improvements.
    """

    name = "gradient"
    piecewise = False
    relative = True

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Entry]:
        return table_entries(sum_scores(probe, choices, _losses_of, _expansion, self.relative), choices, 1 / len(probe.images))


def _losses_of(probe: Probe) -> Losses:
    """Return the losses of a batch: its error, and log-likelihoods of drawn labels."""
    reference, label_losses = probe.reference(), sampled_label_losses(probe)

    def losses(first: int, output: Tensor) -> list[Tensor]:
        expected = reference[first : first + len(output)].to(output.device)
        return [output_loss(expected, output, probe.task).sum(), *label_losses(first, output)]

    return losses


def _expansion(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    products = inner_products(recorder, component, changes, gradients, n_images)
    first, draws = products[:, 0], products[:, 1:]
    return first.sum(1) + 0.5 * draws.square().sum((1, 2)) / DRAWS
