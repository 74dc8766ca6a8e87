"""Evaluation of allocations on images that are held in memory, such as candidates of a search."""

from __future__ import annotations

import copy
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.choice import Decisions
from pmq.core.task import Task
from pmq.evaluation.accuracy import Accuracy
from pmq.quant import Simulator, check_outputs
from pmq.quant.threads import AT_ONCE, in_threads


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
        return self.with_part(self._references(images, batch_size))

    def with_part(self, batches: list[tuple[Tensor, Tensor]]) -> Evaluator:
        """Return an evaluator with one more part, whose FP32 outputs are known."""
        longer = copy.copy(self)
        longer._reference, longer.parts = self._reference, [*self.parts, batches]
        return longer

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reference": None}  # other processes have its outputs, and may lack the modules of its user

    def evaluate(self, assignment: Decisions, part: int | None = None) -> Accuracy:
        """Simulate an allocation and compare it with FP32, on all images or on one part of them."""
        self.simulator.apply(assignment)
        return self.evaluate_model(self.simulator.model, part)

    def evaluate_model(self, model: nn.Module, part: int | None = None, at_once: bool = True) -> Accuracy:
        """Compare a model with FP32, on all images or on one part of them.

        On a processor, several batches are computed ``at_once``; a model that remembers its last batch needs them one by one.
        """
        batches = [batch for one in (self.parts if part is None else [self.parts[part]]) for batch in one]
        total, lock = Accuracy(task=self.task), Lock()  # sums are exact, so that the order does not matter

        def compare(batch: tuple[Tensor, Tensor]) -> None:
            images, reference = batch
            with torch.no_grad():
                output = model(images)
                with lock:
                    total.update(reference, output)

        if at_once:
            in_threads(compare, batches, self._device)
        else:
            for batch in batches:
                compare(batch)
        return total

    @property
    def _device(self) -> torch.device:
        return next(self.simulator.model.parameters()).device

    @torch.no_grad()
    def _references(self, images: Tensor, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        device = self._device
        self.simulator.apply({})
        model = self.simulator.model if self._reference is None else self._reference
        size = -(-batch_size // AT_ONCE) if device.type == "cpu" else batch_size  # together as many images as in one batch
        references = [(x, model(x)) for batch in images.split(size) if len(x := batch.to(device))]
        for x, output in references:
            check_outputs(model, x, output)
        return references
