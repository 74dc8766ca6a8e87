"""Parts of a block that compute tokens one by one: those that nothing reads can be left out, and the model still runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from pmq.core.component import Inventory
from pmq.graph.kinds import ACTIVATIONS
from pmq.graph.model import CapturedModel, Program
from pmq.graph.nodes import copied
from pmq.graph.operators import moves, packet
from pmq.graph.taps import Attention, Layer


@dataclass(frozen=True)
class RowUnit:
    """A part whose tokens are computed or left out; its output is a bias where one is left out.

    Attributes:
        module: its name.
        kind: an MLP, or an attention, all of whose tokens are still read as keys and values.
        activations: components of which a token left out has no row.
        rows: tokens of an image.
        first, last: the layer or attention that is given fewer rows, and the layer that gives them.
    """

    module: str
    kind: Literal["mlp", "attention"]
    activations: tuple[str, ...]
    rows: int
    first: str
    last: str


def row_units(model: CapturedModel, inventory: Inventory) -> list[RowUnit]:
    """Find them: two layers with an activation function between; attentions of one sequence of tokens and the layer behind."""
    macs = {operator.name: operator.macs for operator in inventory.operators}
    found = []
    for node in model.program.graph.nodes:
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        last = _last(model, node, attention=isinstance(module, Attention))
        if last is None or not isinstance(module, Attention | Layer):
            continue
        first, owner = str(node.target), last.rpartition(".")[0]
        if isinstance(module, Layer):
            inputs = inventory[f"{first}.input"]
            rows = macs[first] // inventory[f"{first}.weight"].numel
            if rows == prod(inputs.shape[:-1]) and first.rpartition(".")[0] == owner:  # called once, windows are not its batch
                found.append(RowUnit(owner, "mlp", (f"{first}.input", f"{last}.input"), rows, first, last))
        else:
            softmax = (
                next(c for c in inventory if c.name == f"{owner}.softmax") if f"{owner}.softmax" in inventory.names else None
            )
            if softmax is None or softmax.heads < 1:
                continue
            rows = softmax.shape[0] // softmax.heads
            if rows == softmax.shape[1] and macs[last] == rows * inventory[f"{last}.weight"].numel:
                names = (f"{owner}.q", f"{owner}.softmax", f"{last}.input")
                found.append(RowUnit(owner, "attention", names, rows, first, last))
    return found


def _last(model: CapturedModel, node: fx.Node, attention: bool) -> str | None:
    """The layer that alone reads what a node gives, moved if that is an attention, else passed through an activation function."""
    if node.op != "call_module":
        return None
    while len(node.users) == 1:
        (reader,) = node.users
        if reader.op == "call_module":
            layer = model.get_submodule(str(reader.target))
            return str(reader.target) if isinstance(layer, Layer) and layer.kind == "linear" else None
        if not (moves(reader) if attention else packet(reader) in ACTIVATIONS):
            return None
        node = reader
    return None


def leave_out(model: CapturedModel, unit: RowUnit, kept: Sequence[int]) -> None:
    """Make ``unit`` of ``model`` compute the tokens ``kept`` alone, in place; other copies of the model stay as they are."""
    graph = copied(model.program.graph)
    calls = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
    first, last = calls[unit.first], calls[unit.last]
    bias: Any = model.get_submodule(unit.last).bias
    weight: Any = model.get_submodule(unit.last).weight
    fill = weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().clone()
    _before(model, graph, first, f"{unit.first}_rows", TakeRows(kept, unit.rows))
    if unit.kind == "attention":
        value: Any = first.meta["val"]
        _behind(model, graph, first, f"{unit.first}_filled", PutRows(kept, unit.rows, torch.zeros(int(value.shape[-1]))))
        _before(model, graph, last, f"{unit.last}_rows", TakeRows(kept, unit.rows))
    _behind(model, graph, last, f"{unit.last}_filled", PutRows(kept, unit.rows, fill))
    model.program = Program(graph)


def _before(model: CapturedModel, graph: fx.Graph, node: fx.Node, name: str, module: nn.Module) -> None:
    """Let a module pass on what a node is given first."""
    model.hold(name, module)
    source = node.args[0]
    with graph.inserting_before(node):
        new = graph.call_module(name, (source,))
    new.meta = dict(source.meta)  # type: ignore[union-attr]
    node.args = (new, *node.args[1:])


def _behind(model: CapturedModel, graph: fx.Graph, node: fx.Node, name: str, module: nn.Module) -> None:
    """Let a module pass on what a node gives."""
    model.hold(name, module)
    with graph.inserting_after(node):
        new = graph.call_module(name, (node,))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


class TakeRows(nn.Module):
    """Gathers rows of the last axis but one: ``(..., T, C)`` to ``(..., K, C)``; sides of a map ``(B, H, W, C)`` are one."""

    def __init__(self, kept: Sequence[int], total: int) -> None:
        super().__init__()
        self.leading, self.total, self.count = list(kept) == list(range(len(kept))), total, len(kept)
        self.register_buffer("kept", torch.tensor(list(kept), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gather."""
        if x.shape[-2] != self.total:
            x = x.flatten(1, -2)
        return x[..., : self.count, :] if self.leading else x.index_select(-2, self.get_buffer("kept"))


class PutRows(nn.Module):
    """Puts rows back among rows that are all ``fill``: ``(..., K, C)`` to ``(..., T, C)``."""

    def __init__(self, kept: Sequence[int], total: int, fill: Tensor) -> None:
        super().__init__()
        places = {token: row for row, token in enumerate(kept)}
        back = torch.tensor([places.get(token, len(kept)) for token in range(total)])
        self.register_buffer("back", back, persistent=False)
        self.register_buffer("fill", fill, persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """Put back."""
        row = self.get_buffer("fill").expand(*y.shape[:-2], 1, y.shape[-1])
        return torch.cat([y, row], -2).index_select(-2, self.get_buffer("back"))
