"""Allocation artefacts: built from quantized models, and loaded as quantized models."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import torch

from pmq.core import Allocation, Assignment, Limits, PmqError
from pmq.core.allocation import BudgetInfo, CalibrationInfo, ModelInfo
from pmq.core.choice import ComponentChoice
from pmq.core.description import describe_components
from pmq.core.patches import PatchMap
from pmq.core.recipe import Recipe
from pmq.cost import CostModel, LatencyTable
from pmq.patches import patchable
from pmq.pipeline.subject import Subject
from pmq.pruning import plan_of
from pmq.quant import Calibration, Prepared, Quantized, quantize


def make_allocation(
    subject: Subject,
    quantized: Quantized,
    calibration: CalibrationInfo | None,
    space: str,
    budget: str | None = None,
    limits: Limits | None = None,
    metrics: dict[str, Any] | None = None,
    latency: LatencyTable | None = None,
) -> Allocation:
    """Return the allocation of a quantized model: choices, calibrated parameters, costs, metrics and tensors."""
    costs = CostModel(subject.inventory, latency, plan_of(subject.module))
    plan = plan_allocation(subject.info, costs, quantized.assignment, quantized.recipe, space, budget, limits, metrics)
    facts = {
        "calibration": calibration,
        "pruning": plan_of(subject.module),
        "merging": subject.merging,
        "task": subject.task.name,
    }
    return with_parameters(plan.model_copy(update=facts), quantized)


def plan_allocation(
    model: ModelInfo,
    costs: CostModel,
    assignment: Assignment,
    recipe: Recipe,
    space: str,
    budget: str | None = None,
    limits: Limits | None = None,
    metrics: dict[str, Any] | None = None,
) -> Allocation:
    """Return an allocation of choices alone, with costs and metrics but without parameters and tensors."""
    limits = limits or Limits()
    return Allocation(
        model=model,
        target=None if costs.latency is None else costs.latency.target,
        space=space,
        recipe=recipe,
        components={name: ComponentChoice(**assignment[name].model_dump()) for name in costs.inventory.names},
        inventory=describe_components(costs.inventory),
        budget=BudgetInfo(text=budget or "none", limits=asdict(limits), achieved=costs.costs(assignment)),
        metrics={k: _plain(v) for k, v in (metrics or {}).items()},
    )


def with_parameters(plan: Allocation, quantized: Quantized) -> Allocation:
    """Return a planned allocation with the parameters and tensors of the model quantized with its choices."""
    components = {
        name: choice.model_copy(update={"parameters": quantized.parameters.get(name)}) for name, choice in plan.components.items()
    }
    return plan.model_copy(update={"components": components}).with_tensors(quantized.tensors)


def load_quantized(subject: Subject, allocation: Allocation) -> Quantized:
    """Return the quantized model of an allocation, from its tensors, or from the checkpoint where no tensors are needed.

    The subject must be pruned as the allocation is.

    Raises:
        PmqError: the allocation is of another model, its tensors are needed and missing, or a part of it does not fit the
            model.
    """
    allocation.check_model(subject.info)
    subject.inventory.check_names(allocation.components)
    allocation.check("the allocation", describe_components(subject.inventory))
    if allocation.patches is not None:
        _check_patches(subject, allocation, allocation.patches)
    if allocation.tensors is not None:
        return Quantized(allocation.assignment, allocation.recipe, allocation.parameters, allocation.tensors, allocation.patches)
    if allocation.pruning is not None or not allocation.recipe.plain:
        change = f"recipe {allocation.recipe.name!r}" if allocation.pruning is None else "pruning"
        raise PmqError(
            f"the allocation's {change} changed the weights, and the .safetensors file that was "
            "written beside it is missing; put it there, or pass `recalibrate` to compute it from images"
        )
    known = Calibration(known=allocation.parameters, info=allocation.calibration)
    nothing = torch.empty(0)
    quantized = quantize(Prepared(subject.model, subject.inventory, allocation.recipe, known, nothing), allocation.assignment)
    return replace(quantized, patches=allocation.patches)


def _check_patches(subject: Subject, allocation: Allocation, patches: PatchMap) -> None:
    """Raise unless a map has the model's number of tokens, and every ranked operand has an input before it that ranks it."""
    places, ranked = patchable(subject.inventory, allocation.assignment, any_bits=True), set()
    for name in (name for name in subject.inventory.names if name in patches.components):
        tokens = len(patches.components[name].bits)
        if name not in places or places[name].tokens != tokens:
            count = f"{places[name].tokens}" if name in places else "none of its own"
            raise PmqError(f"the allocation has bits of {tokens} patches of {name!r}, which has {count}; run `pmq patches` again")
        module, _, slot = name.rpartition(".")
        if slot == "input":
            ranked.add(module.rpartition(".")[0])
        elif patches.kind == "dynamic" and module not in ranked:
            raise PmqError(f"the allocation ranks patches of {name!r} by an input that has no map; run `pmq patches` again")


def _plain(value: Any) -> float | None:
    """Return None for NaN and infinity, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else float(value)
