"""Allocations as artefacts: written of what was carried out, and carried out again when read."""

from __future__ import annotations

import math
from typing import Any

import torch

from pmq.api.subject import Subject
from pmq.core import Allocation, Limits, PmqError
from pmq.core.allocation import BudgetInfo, CalibrationInfo, ComponentChoice
from pmq.cost import CostModel
from pmq.quant import Calibration, Prepared, Quantized, quantize


def make_allocation(
    subject: Subject,
    quantized: Quantized,
    calibration: CalibrationInfo | None,
    space: str,
    budget: str | None = None,
    limits: Limits | None = None,
    metrics: dict[str, Any] | None = None,
) -> Allocation:
    """Make the artefact: choices, calibrated parameters, costs, metrics, tensors."""
    costs, assignment = CostModel(subject.inventory), quantized.assignment
    components = {
        name: ComponentChoice(**assignment[name].model_dump(), parameters=quantized.parameters.get(name))
        for name in subject.inventory.names
    }
    achieved = {"size_bytes": costs.size_bytes(assignment), "bit_ops": costs.bit_ops(assignment)}
    limits = limits or Limits()
    info = BudgetInfo(
        text=budget or "none",
        limits={"size_bytes": limits.size_bytes, "bit_ops": limits.bit_ops},
        achieved={k: float(v) for k, v in achieved.items()},
    )
    return Allocation(
        model=subject.info,
        calibration=calibration,
        space=space,
        recipe=quantized.recipe,
        components=components,
        budget=info,
        metrics={k: _plain(v) for k, v in (metrics or {}).items()},
    ).with_tensors(quantized.tensors)


def carry_out(subject: Subject, allocation: Allocation) -> Quantized:
    """Give the quantized model an allocation describes, from its tensors, or from the checkpoint if they say no more.

    Raises:
        PmqError: the allocation is of another model, or its tensors are needed and not at hand.
    """
    allocation.check_model(subject.info)
    subject.inventory.check_names(allocation.components)
    if allocation.tensors is not None:
        return Quantized(allocation.assignment, allocation.recipe, allocation.parameters, allocation.tensors)
    if not allocation.recipe.plain:
        raise PmqError(
            f"the allocation's recipe {allocation.recipe.name!r} changed the weights, and the .safetensors file that was "
            "written beside it is missing; put it there, or --recalibrate to compute it anew from images"
        )
    known = Calibration(known=allocation.parameters, info=allocation.calibration)
    nothing = torch.empty(0)
    return quantize(Prepared(subject.model, subject.inventory, allocation.recipe, known, nothing), allocation.assignment)


def _plain(value: Any) -> float | None:
    """JSON has no NaN."""
    return None if value is None or math.isnan(value) else float(value)
