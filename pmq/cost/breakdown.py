"""Breakdown of an allocation's bytes, bit operations and milliseconds by module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pmq.core.choice import Choice, WidthChoice
from pmq.core.component import Inventory
from pmq.core.patches import PatchMap
from pmq.cost.cost_model import CostModel, choice_ops, component_bytes
from pmq.cost.latency import kernel_key

#: row of everything outside components: biases, norms, embeddings, and the time between layers
ELSEWHERE = "all else"


def cost_breakdown(costs: CostModel, assignment: Mapping[str, Choice], patches: PatchMap | None = None) -> list[dict[str, Any]]:
    """Return the costs of an allocation by module: a row for each module and one for all else, which add up to the total.

    The bytes of a map of patches and the milliseconds that it saves are in the row of all else.
    """
    inventory: Inventory = costs.inventory
    bits: dict[str, float] = {name: choice.bits for name, choice in assignment.items()}
    bits |= {} if patches is None else patches.mean_bits
    rows: dict[str, dict[str, Any]] = {}

    def row(module: str) -> dict[str, Any]:
        return rows.setdefault(module, {"module": module, "size_bytes": 0.0, "bit_ops": 0.0})

    for component in inventory:
        costs_of_module = row(component.module)
        costs_of_module["size_bytes"] += component_bytes(component, assignment[component.name])
        costs_of_module["bit_ops"] += choice_ops(component, assignment[component.name])
    for operator in inventory.operators:
        left, right = operator.operands
        row(inventory[left].module)["bit_ops"] += operator.macs * bits[left] * bits[right]
    table = costs.latency
    if table is not None:
        for module, entry in rows.items():
            key = kernel_key(assignment[f"{module}.weight"], assignment[f"{module}.input"]) if module in table.layers else ""
            entry["latency_ms"] = table.layers[module][key] if key else 0.0
        for name, unit in costs.pruning.units.items() if costs.pruning and table.units else ():
            for layer in unit.layers_at(name) if unit.share < 1 else ():
                key = kernel_key(assignment[f"{layer}.weight"], assignment[f"{layer}.input"])
                rows[layer]["latency_ms"] -= table.layer_saved_ms(name, WidthChoice(unit=unit).label, layer, key)
    totals = costs.costs(assignment, patches)
    rest = {name: value - sum(entry[name] for entry in rows.values()) for name, value in totals.items()}
    return [*rows.values(), {"module": ELSEWHERE} | rest]
