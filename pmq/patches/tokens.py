"""Which activations have tokens whose bits may differ, and what a bit of a token costs there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pmq.core.choice import Assignment
from pmq.core.component import Component, Inventory

#: that tokens may have, beside none
BITS = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Patchable:
    """An activation whose tokens may have bits of their own.

    Attributes:
        component: the activation.
        tokens: of an image.
        macs: multiply-accumulates that a token takes part in.
        partner: the other operand.
    """

    component: Component
    tokens: int
    macs: float
    partner: str

    def ops_of_a_bit(self, mean_bits: Mapping[str, float]) -> float:
        """Bit operations that one bit of one token costs, given the other operand's bits."""
        return self.macs * mean_bits[self.partner]


def attends_globally(inventory: Inventory) -> bool:
    """Whether every query reads all tokens: then tokens of one layer are those of the next, in the same order."""
    named = {c.name: c for c in inventory}
    softmax = [c for c in inventory if c.slot == "softmax"]
    partners = {op.operands[0]: named[op.operands[1]] for op in inventory.operators}
    return all(c.shape[0] // c.heads == c.shape[1] == partners[c.name].shape[0] for c in softmax)


def patchable(inventory: Inventory, assignment: Assignment, runs: bool = False) -> dict[str, Patchable]:
    """Find the quantized inputs of the blocks' layers and, where attention is global, rows of its operands.

    With ``runs``, those of which a runtime can leave out tokens, whatever their bits.
    """
    named = {c.name: c for c in inventory}
    found = {}
    for operator in inventory.operators:
        for name, partner in (operator.operands, operator.operands[::-1]):
            component = named[name]
            wanted = component.slot in ("input", "q", "k", "v", "softmax") and component.kind not in ("image", "features")
            fixed = assignment[name].is_fp32 or assignment[name].granularity == "token"
            if not wanted or (fixed and not runs):
                continue
            if component.slot == "input":
                tokens = operator.macs // named[partner].numel  # rows of all windows
            else:
                tokens = component.shape[0] // (component.heads if component.slot == "softmax" else 1)
                channels = named[partner if component.slot == "softmax" else name].shape[1]
                if operator.macs != tokens**2 * channels:  # windows
                    continue
            found[name] = Patchable(component, tokens, operator.macs / tokens, partner)
    return {name: found[name] for name in inventory.names if name in found}
