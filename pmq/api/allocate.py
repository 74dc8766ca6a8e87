"""Write down an assignment as an allocation."""

from __future__ import annotations

import math
from typing import Any

from pmq.api.subject import Subject
from pmq.core import Allocation, Assignment, Limits
from pmq.core.allocation import BudgetInfo, ComponentChoice
from pmq.cost import CostModel
from pmq.quant import Calibration


def make_allocation(
    subject: Subject,
    assignment: Assignment,
    calibration: Calibration,
    space: str,
    budget: str | None = None,
    limits: Limits | None = None,
    metrics: dict[str, Any] | None = None,
) -> Allocation:
    """Make the artefact: choices, calibrated ranges, costs, metrics."""
    costs = CostModel(subject.inventory)
    components = {}
    for component in subject.inventory:
        choice = assignment[component.name]
        calibrated = component.role == "activation" and not choice.is_float
        bounds = calibration.range(component.name, choice) if calibrated else None
        components[component.name] = ComponentChoice(**choice.model_dump(), range=bounds)
    achieved = {"size_bytes": costs.size_bytes(assignment), "bit_ops": costs.bit_ops(assignment)}
    limits = limits or Limits()
    info = BudgetInfo(
        text=budget or "none",
        limits={"size_bytes": limits.size_bytes, "bit_ops": limits.bit_ops},
        achieved={k: float(v) for k, v in achieved.items()},
    )
    return Allocation(
        model=subject.info,
        calibration=calibration.info,
        space=space,
        components=components,
        budget=info,
        metrics={k: _plain(v) for k, v in (metrics or {}).items()},
    )


def _plain(value: Any) -> float | None:
    """JSON has no NaN."""
    return None if value is None or math.isnan(value) else float(value)
