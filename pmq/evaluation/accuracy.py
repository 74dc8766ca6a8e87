"""Accuracy of a model against labels and against the FP32 model, accumulated batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from pmq.core.task import CLASSIFICATION, Task
from pmq.quant import output_error, to_logits


@dataclass
class Accuracy:
    """Running sums over images, from which :meth:`compute` derives the metrics.

    >>> import torch
    >>> sums = Accuracy()
    >>> fp32, simulated = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[2.0, 1.0], [1.0, 0.0]])
    >>> sums.update(fp32, simulated, torch.tensor([0, 1]))
    >>> {k: v and round(v, 2) for k, v in sums.compute().items()}
    {'top1': 50.0, 'top5': 100.0, 'agreement': 50.0, 'kl': 0.54, 'feature_error': None, 'n_images': 2}
    """

    n_images: int = 0
    labelled: int = 0
    top1: float = 0
    top5: int = 0
    agreed: float = 0
    error: float = 0.0
    #: sum of the squared FP32 values, if the task is regression
    square: float = 0.0
    task: Task = CLASSIFICATION

    def update(self, reference: Tensor, output: Tensor, labels: Tensor | None = None) -> None:
        """Add a batch: outputs ``(B, C)`` of FP32 and of the evaluated model, and labels ``(B,)``, where -1 is unknown.

        Labels of a single logit are 0 and 1; labels are ignored for regression values and features. If a task makes several
        decisions per image, an image counts by its share of correct decisions; labels are then ``(B, K)``, or the classes of
        positions, 0 to C - 1.
        """
        self.n_images += len(output)
        self.error += float(output_error(reference, output, self.task).double().sum())
        if self.task.name == "regression" and self.task.loss is None:
            self.square += float(reference.double().square().sum())
        if not self.task.decides:
            return
        expected, logits = to_logits(reference, self.task), to_logits(output, self.task)
        if not self.task.once:
            self._add_several(expected.argmax(-1), logits.argmax(-1), labels)
            return
        self.agreed += int((expected.argmax(1) == logits.argmax(1)).sum())
        if labels is not None:
            known = labels >= 0
            best = logits[known].topk(min(5, logits.shape[1]), 1).indices
            hits = best == labels[known].to(best.device)[:, None]
            self.labelled += int(known.sum())
            self.top1 += int(hits[:, 0].sum())
            self.top5 += int(hits.sum())

    def _add_several(self, expected: Tensor, decisions: Tensor, labels: Tensor | None) -> None:
        """Add several decisions per image ``(B, K)``."""
        self.agreed += float((expected == decisions).double().mean(1).sum())
        if labels is None or labels.numel() != decisions.numel():
            return
        truth = labels.reshape(decisions.shape).to(decisions.device)
        known = (truth >= 0).double()
        counted = known.sum(1) > 0
        right = ((decisions == truth).double() * known).sum(1)[counted] / known.sum(1)[counted]
        self.labelled += int(counted.sum())
        self.top1 += float(right.sum())

    @property
    def sums(self) -> dict[str, float]:
        """All sums by name, for a journal; ``Accuracy(**sums, task=task)`` restores them."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "task"}

    def __add__(self, other: Accuracy) -> Accuracy:
        """Combine the sums of two sets of images."""
        sums: dict[str, Any] = {name: value + getattr(other, name) for name, value in self.sums.items()}
        return Accuracy(**sums, task=self.task)

    def compute(self) -> dict[str, float | None]:
        """Return percentages and means; ``None`` where a metric is not defined."""

        def percent(count: float, total: int) -> float | None:
            return 100.0 * count / total if total else None

        mean = self.error / self.n_images if self.n_images else None
        if self.square:  # relative to the values of these images
            mean = self.error * self.task.scale / self.square
        return {
            "top1": percent(self.top1, self.labelled),
            "top5": None if self.task.name != "classification" else percent(self.top5, self.labelled),
            "agreement": percent(self.agreed, self.n_images) if self.task.decides else None,
            "kl": mean if self.task.error_name == "kl" else None,
            "feature_error": mean if self.task.error_name == "feature_error" else None,
            "n_images": self.n_images,
        }
