"""Maps of patches over an allocation: applied, refitted, and evaluated on held-out images."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from pmq.core import Allocation
from pmq.core.patches import PatchMap
from pmq.cost import CostModel, LatencyTable
from pmq.evaluation import Evaluator
from pmq.pipeline.allocation import load_quantized, with_parameters
from pmq.pipeline.quantize import RecipeQuantizer
from pmq.pipeline.search.explore import ACCURACY_COLUMNS
from pmq.pipeline.subject import Subject
from pmq.quant import Calibration, Simulator, build_quantized_model


class MapEvaluator:
    """Applies maps of patches to an allocation and evaluates the result.

    Args:
        subject: the model.
        allocation: the allocation with its tensors.
        calib: calibration images ``(N, C, H, W)``.
        evaluated: images ``(N, C, H, W)`` that evaluate a map.
        seed: seed of everything drawn when tensors are refitted.
        latency: latency table that predicts milliseconds, or ``None``.
    """

    def __init__(
        self, subject: Subject, allocation: Allocation, calib: Tensor, evaluated: Tensor, seed: int, latency: LatencyTable | None
    ) -> None:
        self._subject, self._allocation = subject, allocation
        self.costs = CostModel(subject.inventory, latency, allocation.pruning)
        self._quantizer = RecipeQuantizer(subject, calib, seed, None)
        plain = Simulator(copy.deepcopy(subject.model), subject.inventory, Calibration())
        self._evaluator = Evaluator(plain, evaluated, subject.task)

    def with_map(self, patches: PatchMap, metrics: dict[str, float | None]) -> Allocation:
        """Return the allocation with another map and the same tensors."""
        budget = self._allocation.budget
        achieved = self.costs.costs(self._allocation.assignment, patches)
        if budget is not None:
            budget = budget.model_copy(update={"achieved": achieved})
        return self._allocation.model_copy(update={"patches": patches, "budget": budget, "metrics": metrics})

    def refitted(self, allocation: Allocation) -> Allocation:
        """Quantize the allocation again with its map: grids are refitted to their tokens, and weights to the resulting inputs."""
        recipe = allocation.recipe.model_copy(update={"sequential": True, "reconstruct": 0})
        quantized = self._quantizer.quantize(recipe, allocation.assignment, allocation.patches)
        return with_parameters(allocation.model_copy(update={"recipe": recipe, "patches": quantized.patches}), quantized)

    def better(self, allocation: Allocation) -> Allocation:
        """Return the allocation with its present or refitted tensors, whichever has less error, with its metrics."""
        candidates = [self.evaluated(allocation)]
        candidates += [self.evaluated(self.refitted(allocation))] if allocation.recipe.compensate else []
        error = self._subject.task.error_name
        return min(candidates, key=lambda candidate: candidate.metrics[error] or 0.0)

    def evaluated(self, allocation: Allocation) -> Allocation:
        """Return the allocation with its metrics on the evaluating images."""
        subject = self._subject
        module = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, load_quantized(subject, allocation)).model
        metrics: dict[str, Any] = self._evaluator.evaluate_model(module, at_once=False).compute()
        return allocation.model_copy(update={"metrics": allocation.metrics | {name: metrics[name] for name in ACCURACY_COLUMNS}})
