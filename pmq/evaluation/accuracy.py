"""Accuracy of a model against labels and against the FP32 model, accumulated batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from pmq.core.task import CLASSIFICATION, Task
from pmq.evaluation.exact_sum import ZERO, ExactSum
from pmq.quant import output_error, to_logits


@dataclass
class Accuracy:
    """Running sums over images, from which :meth:`compute` derives the metrics.

    Sums of floats are exact, so that images may be divided among workers, and their sums added in any order, without any
    effect on the metrics.

    >>> import torch
    >>> sums = Accuracy()
    >>> fp32, simulated = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[2.0, 1.0], [1.0, 0.0]])
    >>> sums.update(fp32, simulated, torch.tensor([0, 1]))
    >>> {k: v and round(v, 2) for k, v in sums.compute().items()}
    {'top1': 50.0, 'top5': 100.0, 'agreement': 50.0, 'kl': 0.54, 'feature_error': None, 'n_images': 2}
    """

    n_images: int = 0
    labelled: int = 0
    top1: ExactSum = ZERO
    top5: int = 0
    agreed: ExactSum = ZERO
    error: ExactSum = ZERO
    #: sum of the squared FP32 values, if the task is regression
    square: ExactSum = ZERO
    task: Task = CLASSIFICATION

    def update(self, reference: Tensor, output: Tensor, labels: Tensor | None = None) -> None:
        """Add a batch: outputs ``(B, C)`` of FP32 and of the evaluated model, and labels ``(B,)``, where -1 is unknown.

        Labels of a single logit are 0 and 1; labels are ignored for regression values and features. If a task makes several
        decisions per image, an image counts by its share of correct decisions; labels are then ``(B, K)``, or the classes of
        positions, 0 to C - 1.
        """
        self.n_images += len(output)
        self.error = self.error.plus(output_error(reference, output, self.task).tolist())
        if self.task.name == "regression" and self.task.loss is None:
            self.square = self.square.plus(reference.double().square().flatten(1).sum(1).tolist())
        if not self.task.decides:
            return
        expected, logits = to_logits(reference, self.task), to_logits(output, self.task)
        if not self.task.once:
            self._add_several(expected.argmax(-1), logits.argmax(-1), labels)
            return
        self.agreed = self.agreed.plus([int((expected.argmax(1) == logits.argmax(1)).sum())])
        if labels is not None:
            known = labels >= 0
            best = logits[known].topk(min(5, logits.shape[1]), 1).indices
            hits = best == labels[known].to(best.device)[:, None]
            self.labelled += int(known.sum())
            self.top1 = self.top1.plus([int(hits[:, 0].sum())])
            self.top5 += int(hits.sum())

    def _add_several(self, expected: Tensor, decisions: Tensor, labels: Tensor | None) -> None:
        """Add several decisions per image ``(B, K)``."""
        self.agreed = self.agreed.plus((expected == decisions).double().mean(1).tolist())
        if labels is None or labels.numel() != decisions.numel():
            return
        truth = labels.reshape(decisions.shape).to(decisions.device)
        known = (truth >= 0).double()
        counted = known.sum(1) > 0
        right = ((decisions == truth).double() * known).sum(1)[counted] / known.sum(1)[counted]
        self.labelled += int(counted.sum())
        self.top1 = self.top1.plus(right.tolist())

    @property
    def sums(self) -> dict[str, Any]:
        """All sums by name, for a journal; :meth:`from_sums` restores them."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "task"}
        return {name: value.to_json() if isinstance(value, ExactSum) else value for name, value in values.items()}

    @classmethod
    def from_sums(cls, sums: Mapping[str, Any], task: Task) -> Accuracy:
        """Restore the sums that a journal has, also those of earlier versions, which were single floats."""
        kinds = {f.name: f.default for f in fields(cls)}
        values: dict[str, Any] = {n: ExactSum.from_json(v) if isinstance(kinds[n], ExactSum) else v for n, v in sums.items()}
        return replace(cls(task=task), **values)

    def __add__(self, other: Accuracy) -> Accuracy:
        """Combine the sums of two sets of images."""
        sums: dict[str, Any] = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "task"}
        return replace(self, **sums)

    @property
    def mean_error(self) -> float:
        """Mean error of an image."""
        return float(self.error) / self.n_images

    def compute(self) -> dict[str, float | None]:
        """Return percentages and means; ``None`` where a metric is not defined."""

        def percent(count: float, total: int) -> float | None:
            return 100.0 * count / total if total else None

        mean = self.mean_error if self.n_images else None
        if self.square:  # relative to the values of these images
            mean = float(self.error) * self.task.scale / float(self.square)
        return {
            "top1": percent(float(self.top1), self.labelled),
            "top5": None if self.task.name != "classification" else percent(self.top5, self.labelled),
            "agreement": percent(float(self.agreed), self.n_images) if self.task.decides else None,
            "kl": mean if self.task.error_name == "kl" else None,
            "feature_error": mean if self.task.error_name == "feature_error" else None,
            "n_images": self.n_images,
        }
