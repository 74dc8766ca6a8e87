"""Superposition: keep how each choice changes the output, and judge the sum of the changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.quant import output_error
from pmq.sensitivity.base import Found, Metric, Probe, register
from pmq.sensitivity.measured import one_at_a_time
from pmq.sensitivity.table import Effects, SensitivityTable

#: classes of each image kept by themselves; all others count as one
CLASSES = 16


@register
class Superposition(Metric):
    """``measured``, and beside each error the whole difference of the logits behind it.

    The logits of an allocation are predicted as those of FP32 plus the differences of its components, and its error is
    the divergence of those: that sees errors that cancel or add up, and the softmax's curvature, which no sum of errors
    does. The most probable classes of each image are kept, the others together as one.
    """

    name = "superposition"
    relative = True
    measures_outputs = True
    piecewise = False
    has_effects = True

    @torch.no_grad()
    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Found]:
        reference = probe.reference()
        reduce = _Reduction(reference, probe.classifier)
        outputs = probe.outputs()
        start, base_error = reduce(outputs), float(output_error(reference, outputs, probe.classifier).mean())
        table.effects = effects = Effects(reduce(reference).numpy(), start.numpy(), probe.classifier)
        for name, choice, output in one_at_a_time(probe, choices):
            effects.changes.setdefault(name, {})[choice] = (reduce(output) - start).numpy()
            yield name, choice, float(output_error(reference, output, probe.classifier).mean()) - base_error


class _Reduction:
    """Logits ``(N, C)`` to those of the reference's most probable classes and one for all others ``(N, CLASSES)``."""

    def __init__(self, reference: Tensor, classifier: bool) -> None:
        self.classifier = classifier
        if classifier:
            kept = min(CLASSES - 1, reference.shape[1] - 1)
            order = reference.argsort(1, descending=True)
            self._columns = order[:, :kept], order[:, kept:]
        else:
            self._norm = reference.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-15)

    def __call__(self, outputs: Tensor) -> Tensor:
        if not self.classifier:
            return (outputs.flatten(1) / self._norm).cpu()
        kept, rest = (outputs.gather(1, columns) for columns in self._columns)
        return torch.cat([kept, rest.logsumexp(1, keepdim=True)], 1).cpu()
