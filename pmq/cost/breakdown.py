"""Where the bytes, the bit operations and the milliseconds of an allocation go: module by module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pmq.core.choice import Choice, WidthChoice
from pmq.core.component import Inventory
from pmq.core.patches import PatchMap
from pmq.cost.latency import layer_key
from pmq.cost.table import CostModel, component_bytes, grid_ops

#: what no module's components hold: biases, norms, embeddings; and what is between layers
ELSEWHERE = "all else"


def cost_breakdown(costs: CostModel, assignment: Mapping[str, Choice], patches: PatchMap | None = None) -> list[dict[str, Any]]:
    """Divide the costs of an allocation: a row for each module, and one for all else, which add up to the whole.

    What maps of patches cost in bytes and save in milliseconds is part of all else.
    """
    inventory: Inventory = costs.inventory
    bits: dict[str, float] = {name: choice.bits for name, choice in assignment.items()}
    bits |= {} if patches is None else patches.mean_bits
    rows: dict[str, dict[str, Any]] = {}

    def row(module: str) -> dict[str, Any]:
        return rows.setdefault(module, {"module": module, "size_bytes": 0.0, "bit_ops": 0.0})

    for component in inventory:
        of = row(component.module)
        of["size_bytes"] += component_bytes(component, assignment[component.name])
        of["bit_ops"] += grid_ops(component, assignment[component.name])
    for operator in inventory.operators:
        left, right = operator.operands
        row(inventory[left].module)["bit_ops"] += operator.macs * bits[left] * bits[right]
    table = costs.latency
    if table is not None:
        for module, of in rows.items():
            key = layer_key(assignment[f"{module}.weight"], assignment[f"{module}.input"]) if module in table.layers else ""
            of["latency_ms"] = table.layers[module][key] if key else 0.0
        for name, unit in costs.pruning.units.items() if costs.pruning and table.units else ():
            for layer in unit.layers_at(name) if unit.share < 1 else ():
                key = layer_key(assignment[f"{layer}.weight"], assignment[f"{layer}.input"])
                rows[layer]["latency_ms"] -= table.layer_saved_ms(name, WidthChoice(unit=unit).label, layer, key)
    whole = costs.costs(assignment, patches)
    rest = {name: value - sum(of[name] for of in rows.values()) for name, value in whole.items()}
    return [*rows.values(), {"module": ELSEWHERE} | rest]
