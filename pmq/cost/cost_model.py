"""The costs of choices: bytes to store and bit operations to compute, by arithmetic on an inventory."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pmq.core.choice import BY_TOKEN, FLOATS, Choice
from pmq.core.component import Component, Inventory
from pmq.core.patches import PatchMap
from pmq.core.pruning import PruningPlan
from pmq.cost.latency import LatencyTable

SCALE_BYTES = 4
#: bytes of zero point beside each scale; symmetric quantizers have none
ZERO_POINT_BYTES = 1


def grid_bytes(component: Component, choice: Choice) -> int:
    """Return the bytes of a component's grid: scales and zero points, or a table of levels."""
    if choice.quantizer in ("dynamic", *FLOATS):  # computed at run time, or without a grid
        return 0
    if choice.quantizer == "relative":  # one table, without a scale
        return 2**choice.bits
    scales = choice.scales(component.shape, component.heads)
    if choice.quantizer == "palette":
        return scales * SCALE_BYTES + 2**choice.bits
    if choice.quantizer == "codebook":
        return scales * (SCALE_BYTES + ZERO_POINT_BYTES + 2**choice.bits)
    if choice.quantizer == "power":  # both ends, and the exponent
        return scales * 2 * SCALE_BYTES + 1
    if choice.quantizer == "log":
        return scales * SCALE_BYTES + 1
    return scales * (SCALE_BYTES + (0 if choice.symmetric else ZERO_POINT_BYTES))


def component_bytes(component: Component, choice: Choice) -> int:
    """Return the bytes of a component in a file: a weight's packed codes, and the grid of a weight or an activation."""
    stored = component.role == "weight" or component.fixed
    if choice.is_fp32:
        return 4 * component.numel if stored else 0
    codes = math.ceil(component.numel * choice.bits / 8) if stored else 0
    return codes + grid_bytes(component, choice)


def choice_ops(component: Component, choice: Choice) -> int:
    """Return the bit operations that depend on one component's choice alone.

    A grid computed at run time compares each value of one image twice, at 32 bits. In a whole graph, writing a tensor costs the
    bits of each of its values, which is what the operators between products add to the products' own operations.
    """
    if choice.quantizer in BY_TOKEN:
        return 2 * 32 * component.numel
    return choice.bits * component.numel if component.slot == "tensor" and not component.fixed else 0


class CostModel:
    """Costs of whole allocations of one model, with milliseconds where there is a latency table.

    If the table is of the unpruned model, the milliseconds that ``pruning`` saves are subtracted.

    ``bit operations`` are multiply-accumulates of one image times the bits of both operands (32 for FP32), as HAQ and
    HAWQ-V3 count them; a product of two activations (``q @ k``, ``attn @ v``) counts both operands as well. Grids
    computed at run time, and tensors of whole graphs, add operations of their own, see :func:`choice_ops`.
    """

    def __init__(self, inventory: Inventory, latency: LatencyTable | None = None, pruning: PruningPlan | None = None) -> None:
        self.inventory, self.latency, self.pruning = inventory, latency, pruning

    def costs(self, assignment: Mapping[str, Choice], patches: PatchMap | None = None) -> dict[str, float]:
        """Return all costs by name: ``size_bytes``, ``bit_ops`` and, with a latency table, ``latency_ms``."""
        costs = {"size_bytes": float(self.size_bytes(assignment, patches)), "bit_ops": float(self.bit_ops(assignment, patches))}
        if self.latency is None:
            return costs
        saved = 0.0 if self.pruning is None else self.latency.pruned_ms(assignment, self.pruning)
        return costs | {"latency_ms": self.latency.latency_ms(assignment, patches) - saved}

    def size_bytes(self, assignment: Mapping[str, Choice], patches: PatchMap | None = None) -> int:
        """Return the bytes of the model, including everything in FP32, and of its map of patches."""
        held = sum(component_bytes(c, assignment[c.name]) for c in self.inventory)
        return held + self.inventory.rest_bytes + (0 if patches is None else self._map_bytes(patches))

    def bit_ops(self, assignment: Mapping[str, Choice], patches: PatchMap | None = None) -> float:
        """Return the bit operations of one image.

        A product over all tokens of both operands counts with the product of their mean bits.
        """
        bits: dict[str, float] = {name: choice.bits for name, choice in assignment.items()}
        bits |= {} if patches is None else patches.mean_bits
        return self.products(bits) + sum(choice_ops(c, assignment[c.name]) for c in self.inventory)

    def products(self, bits: Mapping[str, float]) -> float:
        """Return the bit operations of all products, given the mean bits of every component."""
        return sum(op.macs * bits[op.operands[0]] * bits[op.operands[1]] for op in self.inventory.operators)

    def _map_bytes(self, patches: PatchMap) -> int:
        """Return the bytes of the further grids and of the map: three bits per token, or two bytes per share of ranks."""
        total = 0
        for name, tokens in patches.components.items():
            total += sum(grid_bytes(self.inventory[name], choice.choice) for choice in tokens.others.values())
            total += math.ceil(3 * len(tokens.bits) / 8) if patches.kind == "static" else 2 * len(set(tokens.bits))
        return total
