"""Tokens that a file does not compute."""

from __future__ import annotations

from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.patches import PatchMap
from pmq.graph import CapturedModel
from pmq.graph.token_skipping import leave_out, row_units


def leave_out_tokens(model: CapturedModel, inventory: Inventory, patches: PatchMap) -> None:
    """Make ``model``, in place, compute the tokens that a static map keeps, by gathering their rows and putting them back.

    Raises:
        PmqError: some activations leave out tokens and others of the same module do not.
    """
    kept = {name: tokens.kept for name, tokens in patches.components.items() if "0" in tokens.bits}
    for unit in row_units(model, inventory):
        found = [kept.pop(name, list(range(unit.rows))) for name in unit.activations]
        if any(one != found[0] for one in found):
            raise PmqError(f"{unit.module!r} leaves out other tokens in one activation than in another; run `pmq patches` anew")
        if len(found[0]) < unit.rows:
            leave_out(model, unit, found[0])
    if kept:
        raise PmqError(f"tokens of {', '.join(sorted(kept)[:3])} cannot be left out of a file; run `pmq patches` anew")
