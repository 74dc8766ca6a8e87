"""Metrics that need the outputs of all images at once: neighbours of features, and a custom metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError, one_line
from pmq.core.task import Task
from pmq.evaluation.neighbours import knn_top1, neighbour_agreement

#: ``metric(outputs, targets)`` of all images, which returns one number
Metric = Callable[[Any, Any], Any]


@dataclass
class WholeSetMetrics:
    """Collects outputs ``(N, ...)`` and labels of the images on the CPU, if a metric of the whole set needs them.

    Attributes:
        task: what the outputs mean; if they are features, their neighbours are compared.
        custom: whether there is a custom metric.
    """

    task: Task
    custom: bool = False
    reference: list[Tensor] = field(default_factory=list)
    outputs: list[list[Tensor]] = field(default_factory=list)
    labels: list[Tensor | None] = field(default_factory=list)

    @property
    def needed(self) -> bool:
        """Whether a metric needs the outputs."""
        return self.custom or self.task.name == "features"

    def add(self, reference: Tensor, outputs: Sequence[Tensor], labels: Tensor | None) -> None:
        """Add a batch: FP32's outputs, those of each model, and the labels."""
        if self.needed:
            self.reference.append(reference.cpu())
            self.outputs.append([output.cpu() for output in outputs])
            self.labels.append(labels)

    def extend(self, other: WholeSetMetrics) -> None:
        """Add the images that another collection has."""
        self.reference += other.reference
        self.outputs += other.outputs
        self.labels += other.labels

    def figures(self, models: int, metric: Metric | None = None) -> list[dict[str, float | None]]:
        """Return the metrics of each of ``models`` models; ``metric`` is the custom one.

        They are ``cosine``, ``neighbour_agreement`` and ``knn_top1`` of features, and ``metric``.

        Raises:
            PmqError: the custom metric lacks labels, fails, or does not return a number.
        """
        empty: dict[str, float | None] = dict.fromkeys(("cosine", "neighbour_agreement", "knn_top1", "metric"))
        if not self.outputs:
            return [empty] * models
        reference, labels = torch.cat(self.reference), _joined(self.labels)
        by_model = [torch.cat(parts) for parts in zip(*self.outputs, strict=True)]
        return [empty | self._model_figures(reference, outputs, labels, metric) for outputs in by_model]

    def _model_figures(
        self, reference: Tensor, outputs: Tensor, labels: Tensor | None, metric: Metric | None
    ) -> dict[str, float | None]:
        figures: dict[str, float | None] = {}
        if self.task.name == "features":
            expected, vectors = reference.flatten(1), outputs.flatten(1)
            figures["cosine"] = float(nn.functional.cosine_similarity(expected.double(), vectors.double()).mean())
            figures["neighbour_agreement"] = neighbour_agreement(expected, vectors)
            figures["knn_top1"] = None if labels is None or labels.ndim != 1 else knn_top1(vectors, labels)
        if metric is not None:
            figures["metric"] = _number(metric, outputs, labels)
        return figures


def _joined(labels: Sequence[Tensor | None]) -> Tensor | None:
    known = [x for x in labels if x is not None]
    return torch.cat(known).cpu() if known and len(known) == len(labels) else None


def _number(metric: Metric, outputs: Tensor, labels: Tensor | None) -> float:
    if labels is None:
        raise PmqError("metric(outputs, targets) needs targets, but the batches have none; pass pairs of images and labels")
    try:
        return float(metric(outputs, labels))
    except Exception as error:  # the user's code may raise anything
        shapes = f"{tuple(outputs.shape)} and targets {tuple(labels.shape)}"
        raise PmqError(f"the metric returns no number for outputs {shapes}: {one_line(error)}") from None
