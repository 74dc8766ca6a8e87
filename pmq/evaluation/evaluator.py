"""Evaluation of quantized models on images, all of them in one pass over the data."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from pmq.core.choice import Decisions
from pmq.core.task import Task
from pmq.evaluation.accuracy import Accuracy
from pmq.evaluation.whole_set import Metric, WholeSetMetrics
from pmq.quant import Simulator, check_outputs

#: number of images on which bfloat16 is compared with full precision
AMP_CHECKED = 64
Metrics = dict[str, float | None]


@torch.no_grad()
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
    sums = [Accuracy(task=task) for _ in models]
    checks = [Accuracy(task=task) for _ in models]
    seconds = [0.0] * len(models)
    collected = WholeSetMetrics(task, metric)
    device = next(reference.parameters()).device
    for images, labels in batches:
        images = images.to(device)
        expected = reference(images)
        check_outputs(reference, images, expected)
        outputs = []
        for i, model in enumerate(models):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                output = model(images).float()
            seconds[i] += time.perf_counter() - start
            if amp and checks[i].n_images < AMP_CHECKED:
                checks[i].update(model(images), output, None)
            sums[i].update(expected, output, labels)
            outputs.append(output)
        collected.add(expected, outputs, labels)
    return [
        total.compute()
        | {"images_per_s": total.n_images / forward_s if forward_s else None}
        | {"amp_agreement": check.compute()["agreement"] if amp else None}
        | figures
        for total, forward_s, check, figures in zip(sums, seconds, checks, collected.figures(len(models)), strict=True)
    ]


class Evaluator:
    """Evaluates allocations on a fixed set of images, or on parts of it, against FP32 outputs that are computed once.

    The FP32 outputs are those of the simulator's own model, or of ``reference``.

    Attributes:
        parts: batches of each part with their FP32 outputs: a quarter of the images, a second quarter, and the rest.
    """

    def __init__(
        self,
        simulator: Simulator,
        images: Tensor,
        task: Task,
        batch_size: int = 32,
        reference: nn.Module | None = None,
    ) -> None:
        self.simulator, self.task, self._reference = simulator, task, reference
        quarter = len(images) // 4
        parts = images.split([quarter, quarter, len(images) - 2 * quarter])
        self.parts = [self._references(part, batch_size) for part in parts]

    def extended(self, images: Tensor, batch_size: int = 32) -> Evaluator:
        """Return an evaluator with more images, as one more part."""
        longer = copy.copy(self)
        longer.parts = [*self.parts, self._references(images, batch_size)]
        return longer

    def evaluate(self, assignment: Decisions, part: int | None = None) -> Accuracy:
        """Simulate an allocation and compare it with FP32, on all images or on one part of them."""
        self.simulator.apply(assignment)
        return self.evaluate_model(self.simulator.model, part)

    @torch.no_grad()
    def evaluate_model(self, model: nn.Module, part: int | None = None) -> Accuracy:
        """Compare a model with FP32, on all images or on one part of them."""
        total = Accuracy(task=self.task)
        for batches in self.parts if part is None else [self.parts[part]]:
            for images, reference in batches:
                total.update(reference, model(images))
        return total

    @torch.no_grad()
    def _references(self, images: Tensor, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        device = next(self.simulator.model.parameters()).device
        self.simulator.apply({})
        model = self.simulator.model if self._reference is None else self._reference
        references = [(x, model(x)) for batch in images.split(batch_size) if len(x := batch.to(device))]
        for x, output in references:
            check_outputs(model, x, output)
        return references
