"""Token skipping in deployed files."""

from __future__ import annotations

from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.patches import PatchMap
from pmq.graph import CapturedModel
from pmq.graph.token_skipping import skip_tokens, tokenwise_units


def leave_out_tokens(model: CapturedModel, inventory: Inventory, patches: PatchMap) -> None:
    """Modify ``model`` to compute only the tokens that a static map keeps, by gathering their rows and scattering the results.

    Raises:
        PmqError: activations of a module skip different tokens, or a file cannot skip the tokens of an activation.
    """
    kept_tokens = {name: bits.kept for name, bits in patches.components.items() if "0" in bits.bits}
    for unit in tokenwise_units(model, inventory):
        tokens_of_activations = [kept_tokens.pop(name, list(range(unit.n_tokens))) for name in unit.activations]
        tokens = tokens_of_activations[0]
        if any(other != tokens for other in tokens_of_activations):
            raise PmqError(f"activations of {unit.module!r} skip different tokens; run `pmq patches` again")
        if len(tokens) < unit.n_tokens:
            skip_tokens(model, unit, tokens)
    if kept_tokens:
        raise PmqError(f"tokens of {', '.join(sorted(kept_tokens)[:3])} cannot be skipped in a file; run `pmq patches` again")
