"""Parts of a block that compute tokens one by one: those that nothing reads can be left out, and the model still runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pmq.core.component import Inventory


@dataclass(frozen=True)
class RowUnit:
    """A module whose tokens are computed or left out; its output is a bias where one is left out.

    Attributes:
        module: its name.
        kind: an MLP, or an attention, all of whose tokens are still read as keys and values.
        activations: components of which a token left out has no row.
        rows: tokens of an image.
    """

    module: str
    kind: Literal["mlp", "attention"]
    activations: tuple[str, ...]
    rows: int


def row_units(model: nn.Module, inventory: Inventory) -> list[RowUnit]:
    """Find them: MLPs of two layers, and attentions of one sequence of tokens."""
    names = set(inventory.names)
    macs = {operator.name: operator.macs for operator in inventory.operators}
    found = []
    for name, module in model.named_modules():
        mlp = tuple(f"{name}.{layer}.input" for layer in ("fc1", "fc2"))
        attention = (f"{name}.q", f"{name}.softmax", f"{name}.proj.input")
        if names.issuperset(mlp) and len(list(module.parameters())) <= 4:  # no norm between the layers, no gate
            rows = macs[f"{name}.fc1"] // inventory[f"{name}.fc1.weight"].numel
            if rows == prod(inventory[mlp[0]].shape[:-1]):  # called once, and windows are not its batch
                found.append(RowUnit(name, "mlp", mlp, rows))
        elif names.issuperset(attention) and _is_plain(module):
            softmax = inventory[f"{name}.softmax"]
            rows = softmax.shape[0] // softmax.heads
            if rows == softmax.shape[1] and macs[f"{name}.proj"] == rows * inventory[f"{name}.proj.weight"].numel:
                found.append(RowUnit(name, "attention", attention, rows))
    return found


def _is_plain(attention: Any) -> bool:
    """Whether an attention has the places where its rows are dropped and filled in: timm's ``Attention`` without a gate."""
    places = all(isinstance(getattr(attention, a, None), nn.Module) for a in ("q_norm", "attn_drop", "norm", "proj_drop"))
    return places and getattr(attention, "gate", None) is None


def leave_out(model: nn.Module, unit: RowUnit, kept: Sequence[int]) -> None:
    """Make ``unit`` of ``model`` compute the tokens ``kept`` alone, in place; by hooks, so that names stay as they are."""
    module: Any = model.get_submodule(unit.module)
    rows = _Rows(kept, unit.rows)
    if unit.kind == "mlp":
        fill = _bias(module.fc2)
        module.register_forward_pre_hook(lambda m, args: (rows.take(args[0]), *args[1:]))
        module.register_forward_hook(lambda m, args, y: rows.put(y, fill))
        return
    fill = _bias(module.proj)
    module.fused_attn = False
    module.q_norm.register_forward_hook(lambda m, args, q: rows.take(q))
    module.attn_drop.register_forward_hook(lambda m, args, softmax: rows.put(softmax, None))
    module.norm.register_forward_hook(lambda m, args, x: rows.take(x))
    module.proj_drop.register_forward_hook(lambda m, args, y: rows.put(y, fill))


def _bias(layer: Any) -> Tensor:
    bias: Tensor = torch.zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
    return bias.detach().clone()


class _Rows:
    """Gathers rows of the last axis but one, and puts them back among rows that are all the same."""

    def __init__(self, kept: Sequence[int], total: int) -> None:
        self._leading = list(kept) == list(range(len(kept)))
        self._kept, self._total = torch.tensor(list(kept), dtype=torch.int64), total
        self._shape: torch.Size | None = None
        places = {token: row for row, token in enumerate(kept)}
        self._back = torch.tensor([places.get(token, len(kept)) for token in range(total)])

    def take(self, x: Tensor) -> Tensor:
        """``(..., T, C)`` to ``(..., K, C)``; sides of a map ``(B, H, W, C)`` are one."""
        if x.shape[-2] != self._total:
            self._shape, x = x.shape, x.flatten(1, -2)
        return x[..., : len(self._kept), :] if self._leading else x.index_select(-2, self._kept)

    def put(self, y: Tensor, fill: Tensor | None) -> Tensor:
        """``(..., K, C)`` to ``(..., T, C)``."""
        row = y.new_zeros(y.shape[-1]) if fill is None else fill
        y = torch.cat([y, row.expand(*y.shape[:-2], 1, y.shape[-1])], -2).index_select(-2, self._back)
        return y if self._shape is None else y.reshape(*self._shape[:-1], y.shape[-1])
