"""Superposition: record how each choice changes the output, and evaluate the sum of the changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.errors import PmqError
from pmq.core.task import Task
from pmq.metrics.base import Entry, Metric, Probe, register
from pmq.metrics.measured import one_at_a_time
from pmq.metrics.sensitivity_table import Effects, SensitivityTable
from pmq.quant import output_error, to_logits, unit_norm

#: logits per image: its most probable classes, and one for all others together
CLASSES = 16


@register
class Superposition(Metric):
    """``measured``, which also keeps the difference of the logits behind each error.

    The logits of an allocation are predicted as those of FP32 plus the differences of its components, and its error is
    the divergence of the predicted logits. Unlike a sum of errors, this accounts for errors that cancel or add up and for
    the softmax's curvature. The most probable classes of each image are kept; the other classes are merged into one.
    """

    name = "superposition"
    relative = True
    measures_outputs = True
    piecewise = False
    has_effects = True

    @torch.no_grad()
    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Entry]:
        reference = probe.reference()
        reduce = _Reduction(reference, probe.task)
        outputs = probe.outputs()
        start, base_error = reduce(outputs), float(output_error(reference, outputs, probe.task).mean())
        table.effects = effects = Effects(reduce(reference).numpy(), start.numpy(), probe.task)
        for name, choice, output in one_at_a_time(probe, choices):
            effects.changes.setdefault(name, {})[choice] = (reduce(output) - start).numpy()
            yield name, choice, float(output_error(reference, output, probe.task).mean()) - base_error


class _Reduction:
    """Reduces logits ``(N, C)`` to the reference's most probable classes and one for all others ``(N, CLASSES)``."""

    def __init__(self, reference: Tensor, task: Task) -> None:
        self.task = task
        if task.loss is not None:
            raise PmqError("metric 'superposition' does not support a custom loss; choose another `metric`")
        if task.decides and not task.once:
            raise PmqError(
                f"metric 'superposition' needs one decision per image; task {task.name!r} has several; choose another `metric`"
            )
        if task.decides:
            reference = to_logits(reference, task)
            n_top = min(CLASSES - 1, reference.shape[1] - 1)
            order = reference.argsort(1, descending=True)
            self._columns = order[:, :n_top], order[:, n_top:]
        else:
            self._norm = unit_norm(reference, task)

    def __call__(self, outputs: Tensor) -> Tensor:
        if not self.task.decides:
            return (outputs.flatten(1) / self._norm).cpu()
        logits = to_logits(outputs, self.task)
        top, rest = (logits.gather(1, columns) for columns in self._columns)
        return torch.cat([top, rest.logsumexp(1, keepdim=True)], 1).cpu()
