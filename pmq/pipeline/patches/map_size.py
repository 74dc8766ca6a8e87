"""The largest size of a map of patches."""

from __future__ import annotations

from pmq.core.choice import ComponentChoice
from pmq.core.patches import PatchMap, TokenBits
from pmq.cost import CostModel
from pmq.optimize import Space
from pmq.patches import BITS, patchable
from pmq.pipeline.patches.kinds import SCORE, check_kind


def map_bytes(space: Space, kind: str) -> int:
    """Return the most bytes that a map of patches can take: that of a map whose activations use all bit-widths."""
    assignment = {name: choices[-1] for name, choices in space.choices.items()}
    components = {}
    for name, place in patchable(space.inventory, assignment, any_bits=True).items():
        others = {c.bits: ComponentChoice(**c.model_dump()) for c in space.choices[name] if c.bits in BITS}
        components[name] = TokenBits.of((BITS * place.tokens)[: place.tokens], others)
    score = SCORE if kind == "dynamic" else None
    costs, patches = CostModel(space.inventory), PatchMap(kind=check_kind(kind), score=score, components=components)
    return costs.size_bytes(assignment, patches) - costs.size_bytes(assignment)
