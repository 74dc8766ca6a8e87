"""Evaluate allocations on images, all of them in one pass over the data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pmq.core.choice import Assignment
from pmq.evaluate.accuracy import Accuracy
from pmq.quant import Calibration, Simulator

Metrics = dict[str, float | None]


@torch.no_grad()
def evaluate_assignments(
    simulator: Simulator,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    jobs: Sequence[tuple[Assignment, Calibration]],
    classifier: bool,
) -> list[Metrics]:
    """Judge several allocations against labels and FP32 on the same images.

    The FP32 reference is computed once a batch. ``images_per_s`` counts the simulated forward passes alone.

    Args:
        simulator: the model.
        batches: ``(images, labels)``; labels may be ``None``, single ones -1.
        jobs: allocations, each with the calibration its ranges come from.
        classifier: whether the outputs are logits.
    """
    sums = [Accuracy(classifier=classifier) for _ in jobs]
    seconds = [0.0] * len(jobs)
    device = next(simulator.model.parameters()).device
    for images, labels in batches:
        images = images.to(device)
        simulator.apply({})
        reference = simulator.model(images)
        for i, (assignment, calibration) in enumerate(jobs):
            simulator.apply(assignment, calibration)
            start = time.perf_counter()
            output = simulator.model(images)
            seconds[i] += time.perf_counter() - start
            sums[i].update(reference, output, labels)
    simulator.apply({})
    return [
        total.compute() | {"images_per_s": total.n_images / spent if spent else None}
        for total, spent in zip(sums, seconds, strict=True)
    ]


class Judge:
    """Judges allocations on a fixed set of images, whose FP32 outputs are computed once."""

    @torch.no_grad()
    def __init__(self, simulator: Simulator, images: Tensor, classifier: bool, batch_size: int = 32) -> None:
        self.simulator, self.classifier = simulator, classifier
        device = next(simulator.model.parameters()).device
        self.batches = [batch.to(device) for batch in images.split(batch_size)]
        simulator.apply({})
        self.reference = [simulator.model(x) for x in self.batches]

    @torch.no_grad()
    def judge(self, assignment: Assignment) -> Metrics:
        """Simulate an allocation and compare it with FP32."""
        self.simulator.apply(assignment)
        total = Accuracy(classifier=self.classifier)
        for images, reference in zip(self.batches, self.reference, strict=True):
            total.update(reference, self.simulator.model(images))
        return total.compute()
