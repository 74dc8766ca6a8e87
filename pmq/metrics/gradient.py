"""First-order sensitivity around a quantized point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.component import Component
from pmq.metrics.base import Found, Metric, Probe, register
from pmq.metrics.fisher import draws_of
from pmq.metrics.passes import Recorder, entries, inner_products, scored
from pmq.metrics.table import SensitivityTable
from pmq.quant.gradients import DRAWS, output_loss


@register
class FirstOrder(Metric):
    """Gradient of the output's error at the base times a component's change, and half the Fisher information there.

    The second-order expansion of the error around the base, gradients passing through quantizers as if they did nothing.
    Around FP32 the gradient is zero, and this is ``fisher``. Errors are beside the base's own: less than zero is better.
    """

    name = "gradient"
    piecewise = False
    relative = True

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Found]:
        reference = probe.reference()
        draw = draws_of(probe)

        def losses(first: int, output: Tensor) -> list[Tensor]:
            wanted = reference[first : first + len(output)].to(output.device)
            return [output_loss(wanted, output, probe.task).sum(), *draw(first, output)]

        return entries(scored(probe, choices, losses, _expansion, self.relative), choices, 1 / len(probe.images))


def _expansion(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    products = inner_products(recorder, component, changes, gradients, n_images)
    first, draws = products[:, 0], products[:, 1:]
    return first.sum(1) + 0.5 * draws.square().sum((1, 2)) / DRAWS
