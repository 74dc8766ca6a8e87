"""Comparison of models with labels and with FP32 on the same images, all models in one pass over the data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.task import Task
from pmq.evaluation.accuracy import Accuracy
from pmq.evaluation.whole_set import Metric, WholeSetMetrics
from pmq.quant import check_outputs

#: number of images on which bfloat16 is compared with full precision
AMP_CHECKED = 64
Metrics = dict[str, float | None]


@dataclass
class ModelSums:
    """Sums of one model over some images.

    Attributes:
        accuracy: accuracy against labels and FP32.
        amp: agreement of bfloat16 with full precision on the first images; empty without.
        seconds: duration of the model's own forward passes.
    """

    accuracy: Accuracy
    amp: Accuracy
    seconds: float = 0.0

    @classmethod
    def empty(cls, task: Task) -> ModelSums:
        """Return the sums over no images."""
        return cls(Accuracy(task=task), Accuracy(task=task))

    def __add__(self, other: ModelSums) -> ModelSums:
        """Combine the sums over two sets of images."""
        return ModelSums(self.accuracy + other.accuracy, self.amp + other.amp, self.seconds + other.seconds)

    def to_json(self) -> dict[str, Any]:
        """Return the sums for a journal; :meth:`from_json` restores them."""
        return {"accuracy": self.accuracy.sums, "amp": self.amp.sums, "seconds": self.seconds}

    @classmethod
    def from_json(cls, value: dict[str, Any], task: Task) -> ModelSums:
        """Restore the sums."""
        accuracy, amp = (Accuracy.from_sums(value[name], task) for name in ("accuracy", "amp"))
        return cls(accuracy, amp, value["seconds"])

    def compute(self, amp: bool) -> Metrics:
        """Return the metrics of the model."""
        speed = self.accuracy.n_images / self.seconds if self.seconds else None
        agreement = self.amp.compute()["agreement"] if amp else None
        return self.accuracy.compute() | {"images_per_s": speed, "amp_agreement": agreement}


@dataclass
class ImageSums:
    """Sums of all models over some images, the outputs that metrics of the whole set need, and unreadable images."""

    models: list[ModelSums]
    collected: WholeSetMetrics
    unreadable: list[str] = field(default_factory=list)


@dataclass
class Comparison:
    """Models that are compared with FP32.

    Attributes:
        reference: the FP32 model.
        models: the models to evaluate; the reference itself may be one of them.
        task: what the outputs mean.
        amp: whether models use bfloat16 for all multiplications that are not integer; the agreement of their decisions with
            those of full precision is measured on the first images.
        collects: whether a custom metric needs the outputs of all images.
    """

    reference: nn.Module
    models: Sequence[nn.Module]
    task: Task
    amp: bool = False
    collects: bool = False

    @property
    def device_type(self) -> str:
        """Type of the device on which the models are."""
        return next(self.reference.parameters()).device.type

    def empty(self) -> ImageSums:
        """Return the sums over no images."""
        return ImageSums([ModelSums.empty(self.task) for _ in self.models], WholeSetMetrics(self.task, self.collects))

    @torch.no_grad()
    def add(self, sums: ImageSums, images: Tensor, labels: Tensor | None, check_amp: bool) -> None:
        """Evaluate a batch, of which FP32's outputs are computed once, and add it to the sums.

        ``check_amp``: compare bfloat16 with full precision, while fewer than ``AMP_CHECKED`` images were compared.
        """
        device = next(self.reference.parameters()).device
        images = images.to(device)
        expected = self.reference(images)
        check_outputs(self.reference, images, expected)
        outputs = []
        for model, total in zip(self.models, sums.models, strict=True):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=self.amp):
                output = model(images).float()
            total.seconds += time.perf_counter() - start
            if self.amp and check_amp and total.amp.n_images < AMP_CHECKED:
                total.amp.update(model(images), output, None)
            total.accuracy.update(expected, output, labels)
            outputs.append(output)
        sums.collected.add(expected, outputs, labels)


def evaluate_models(
    reference: nn.Module,
    models: Sequence[nn.Module],
    batches: Iterable[tuple[Tensor, Tensor | None]],
    task: Task,
    amp: bool = False,
    metric: Metric | None = None,
) -> list[Metrics]:
    """Evaluate several models against labels and against ``reference`` on the same images.

    The reference is computed once per batch. ``images_per_s`` counts only a model's own forward passes. With ``amp`` the
    models use bfloat16 for all multiplications that are not integer; ``amp_agreement`` is the percentage of the first
    images for which they make the same decision as without.

    Args:
        reference: the FP32 model.
        models: the models to evaluate; the reference itself may be one of them.
        batches: ``(images, labels)``; labels may be ``None``, single labels -1.
        task: what the outputs mean.
        amp: whether to use bfloat16, see above.
        metric: ``metric(outputs, targets)``, called with the outputs of all images and their labels; returns a number.

    Returns:
        The metrics of each model.
    """
    comparison = Comparison(reference, models, task, amp, metric is not None)
    sums = comparison.empty()
    for images, labels in batches:
        comparison.add(sums, images, labels, check_amp=True)
    return metrics_of(sums, amp, metric)


def metrics_of(sums: ImageSums, amp: bool, metric: Metric | None) -> list[Metrics]:
    """Return the metrics of each model from the sums over all images.

    Raises:
        PmqError: the custom metric lacks labels, fails, or does not return a number.
    """
    figures = sums.collected.figures(len(sums.models), metric)
    return [model.compute(amp) | further for model, further in zip(sums.models, figures, strict=True)]
