"""Figures that need the outputs of all images at once: neighbours of features, and a metric of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError, one_line
from pmq.core.task import Task
from pmq.evaluation.neighbours import knn_top1, neighbour_agreement

#: ``metric(outputs, targets)``: of all images -> one number
Metric = Callable[[Any, Any], Any]


@dataclass
class WholeSetMetrics:
    """Outputs ``(N, ...)`` and labels of the images so far, on the CPU; nothing, where nothing is made of them.

    Attributes:
        task: what outputs mean; neighbours are looked at where they are features.
        metric: of one's own.
    """

    task: Task
    metric: Metric | None = None
    reference: list[Tensor] = field(default_factory=list)
    outputs: list[list[Tensor]] = field(default_factory=list)
    labels: list[Tensor | None] = field(default_factory=list)

    @property
    def needed(self) -> bool:
        """Whether anything is made of outputs."""
        return self.metric is not None or self.task.name == "features"

    def add(self, reference: Tensor, outputs: Sequence[Tensor], labels: Tensor | None) -> None:
        """Keep a batch: FP32's outputs, those of each model, and the labels."""
        if self.needed:
            self.reference.append(reference.cpu())
            self.outputs.append([output.cpu() for output in outputs])
            self.labels.append(labels)

    def figures(self, models: int) -> list[dict[str, float | None]]:
        """What is made of the outputs of each of so many models.

        ``cosine``, ``neighbour_agreement`` and ``knn_top1`` of features, and ``metric``.

        Raises:
            PmqError: a metric lacks labels, fails, or does not give a number.
        """
        nothing: dict[str, float | None] = dict.fromkeys(("cosine", "neighbour_agreement", "knn_top1", "metric"))
        if not self.outputs:
            return [nothing] * models
        wanted, labels = torch.cat(self.reference), _joined(self.labels)
        return [nothing | self._of(wanted, torch.cat(parts), labels) for parts in zip(*self.outputs, strict=True)]

    def _of(self, wanted: Tensor, outputs: Tensor, labels: Tensor | None) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        if self.task.name == "features":
            wanted, vectors = wanted.flatten(1), outputs.flatten(1)
            found["cosine"] = float(nn.functional.cosine_similarity(wanted.double(), vectors.double()).mean())
            found["neighbour_agreement"] = neighbour_agreement(wanted, vectors)
            found["knn_top1"] = None if labels is None or labels.ndim != 1 else knn_top1(vectors, labels)
        if self.metric is not None:
            found["metric"] = _number(self.metric, outputs, labels)
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
