"""Figures that need the outputs of all images at once: neighbours of features, and a metric of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError, one_line
from pmq.core.task import Task
from pmq.evaluate.neighbours import knn_top1, neighbour_agreement

#: ``metric(outputs, targets)``: of all images -> one number
Metric = Callable[[Any, Any], Any]


@dataclass
class Collected:
    """Outputs ``(N, ...)`` and labels of the images so far, on the CPU.

    Attributes:
        needed: whether anything is made of them; else nothing is kept.
    """

    needed: bool
    reference: list[Tensor] = field(default_factory=list)
    outputs: list[list[Tensor]] = field(default_factory=list)
    labels: list[Tensor | None] = field(default_factory=list)

    @classmethod
    def of(cls, task: Task, metric: Metric | None, models: int) -> Collected:
        """Begin, for so many models."""
        return cls(metric is not None or task.name == "features", outputs=[[] for _ in range(models)])

    def add(self, reference: Tensor, labels: Tensor | None) -> None:
        """Keep FP32's outputs for a batch, and its labels."""
        if self.needed:
            self.reference.append(reference.cpu())
            self.labels.append(labels)

    def add_output(self, model: int, output: Tensor) -> None:
        """Keep a model's outputs for the batch."""
        if self.needed:
            self.outputs[model].append(output.cpu())

    def figures(self, model: int, task: Task, metric: Metric | None) -> dict[str, float | None]:
        """What is made of them: ``cosine``, ``neighbour_agreement`` and ``knn_top1`` of features, and ``metric``.

        Raises:
            PmqError: a metric lacks labels, fails, or does not give a number.
        """
        found: dict[str, float | None] = dict.fromkeys(("cosine", "neighbour_agreement", "knn_top1", "metric"))
        if not self.needed:
            return found
        outputs, labels = torch.cat(self.outputs[model]), _joined(self.labels)
        if task.name == "features":
            wanted, vectors = torch.cat(self.reference).flatten(1), outputs.flatten(1)
            found["cosine"] = float(nn.functional.cosine_similarity(wanted.double(), vectors.double()).mean())
            found["neighbour_agreement"] = neighbour_agreement(wanted, vectors)
            found["knn_top1"] = None if labels is None or labels.ndim != 1 else knn_top1(vectors, labels)
        if metric is not None:
            found["metric"] = _number(metric, outputs, labels)
        return found


def _joined(labels: Sequence[Tensor | None]) -> Tensor | None:
    known = [x for x in labels if x is not None]
    return torch.cat(known).cpu() if known and len(known) == len(labels) else None


def _number(metric: Metric, outputs: Tensor, labels: Tensor | None) -> float:
    if labels is None:
        raise PmqError("metric(outputs, targets) needs targets, and the batches have none; give pairs of images and labels")
    try:
        return float(metric(outputs, labels))
    except Exception as error:  # whatever the user's code raises
        shapes = f"{tuple(outputs.shape)} and targets {tuple(labels.shape)}"
        raise PmqError(f"the metric gives no number for outputs {shapes}: {one_line(error)}") from None
