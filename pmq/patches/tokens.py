"""Activations whose tokens can have different bits, and the cost of a token's bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pmq.core.choice import Assignment
from pmq.core.component import Component, Inventory

#: bit-widths that tokens can have besides 0
BITS = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Patchable:
    """An activation whose tokens can have different bits.

    Attributes:
        component: the activation.
        tokens: number of tokens per image.
        macs: multiply-accumulates that each token takes part in.
        partner: the other operand of the product.
    """

    component: Component
    tokens: int
    macs: float
    partner: str

    def ops_of_a_bit(self, mean_bits: Mapping[str, float]) -> float:
        """Return the bit operations that one bit of one token costs, given the other operand's bits."""
        return self.macs * mean_bits[self.partner]


def attends_globally(inventory: Inventory) -> bool:
    """Return whether every query reads all tokens, so that the tokens of all layers are the same, in the same order."""
    named = {c.name: c for c in inventory}
    softmax = [c for c in inventory if c.slot == "softmax"]
    partners = {op.operands[0]: named[op.operands[1]] for op in inventory.operators}
    return all(c.shape[0] // c.heads == c.shape[1] == partners[c.name].shape[0] for c in softmax)


def patchable(inventory: Inventory, assignment: Assignment, any_bits: bool = False) -> dict[str, Patchable]:
    """Find the quantized inputs of the blocks' layers and, where attention is global, the operands of attention.

    With ``any_bits``, activations in FP32 are included: a runtime can skip their tokens too.
    """
    named = {c.name: c for c in inventory}
    places = {}
    for operator in inventory.operators:
        for name, partner in (operator.operands, operator.operands[::-1]):
            component = named[name]
            has_tokens = component.slot in ("input", "q", "k", "v", "softmax") and component.kind not in ("image", "features")
            if not has_tokens or (assignment[name].is_fp32 and not any_bits):
                continue
            if component.slot == "input":
                tokens = operator.macs // named[partner].numel  # tokens of all windows
            else:
                tokens = component.shape[0] // (component.heads if component.slot == "softmax" else 1)
                channels = named[partner if component.slot == "softmax" else name].shape[1]
                if operator.macs != tokens**2 * channels:  # attention in windows
                    continue
            places[name] = Patchable(component, tokens, operator.macs / tokens, partner)
    return {name: places[name] for name in inventory.names if name in places}
