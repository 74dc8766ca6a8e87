"""An allocation with other maps of patches: its tensors as they are or made anew, judged on images of their own."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from pmq.core import Allocation
from pmq.core.patches import PatchMap
from pmq.cost import CostModel, LatencyTable
from pmq.evaluation import Evaluator
from pmq.pipeline.allocation import load_quantized, with_parameters
from pmq.pipeline.quantize import Fresh
from pmq.pipeline.search.explore import METRICS
from pmq.pipeline.subject import Subject
from pmq.quant import Calibration, Simulator, build_quantized_model


class MapEvaluator:
    """Lays maps over an allocation.

    Args:
        subject: the model.
        allocation: with its tensors.
        calib: images ``(N, C, H, W)`` that calibrated.
        judged: images that judge.
        seed: of whatever is drawn when tensors are made anew.
        latency: table that predicts milliseconds.
    """

    def __init__(
        self, subject: Subject, allocation: Allocation, calib: Tensor, evaluated: Tensor, seed: int, latency: LatencyTable | None
    ) -> None:
        self._subject, self._allocation = subject, allocation
        self.costs = CostModel(subject.inventory, latency, allocation.pruning)
        self._fresh = Fresh(subject, calib, seed, None)
        plain = Simulator(copy.deepcopy(subject.model), subject.inventory, Calibration())
        self._judge = Evaluator(plain, evaluated, subject.task)

    def laid_over(self, patches: PatchMap, metrics: dict[str, float | None]) -> Allocation:
        """The allocation with another map; all its tensors stay."""
        budget = self._allocation.budget
        achieved = self.costs.costs(self._allocation.assignment, patches)
        if budget is not None:
            budget = budget.model_copy(update={"achieved": achieved})
        return self._allocation.model_copy(update={"patches": patches, "budget": budget, "metrics": metrics})

    def refitted(self, allocation: Allocation) -> Allocation:
        """Carry a map out anew, layer by layer: grids are fitted to the tokens that have them, weights to what they get."""
        recipe = allocation.recipe.model_copy(update={"sequential": True, "reconstruct": 0})
        quantized = self._fresh.quantize(recipe, allocation.assignment, allocation.patches)
        return with_parameters(allocation.model_copy(update={"recipe": recipe, "patches": quantized.patches}), quantized)

    def better(self, laid: Allocation) -> Allocation:
        """With its tensors as they are or refitted, whichever the judge finds better; with its judgement."""
        candidates = [self.evaluated(laid), *([self.evaluated(self.refitted(laid))] if laid.recipe.compensate else [])]
        error = self._subject.task.error_name
        return min(candidates, key=lambda candidate: candidate.metrics[error] or 0.0)

    def evaluated(self, allocation: Allocation) -> Allocation:
        """The same with its accuracy on the judge's images."""
        subject = self._subject
        module = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, load_quantized(subject, allocation)).model
        found: dict[str, Any] = self._judge.evaluate_model(module).compute()
        return allocation.model_copy(update={"metrics": allocation.metrics | {name: found[name] for name in METRICS}})
