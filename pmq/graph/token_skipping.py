"""Token skipping: parts of a block that compute each token separately can skip tokens, and the model still runs."""

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
class TokenwiseUnit:
    """Part of a model that can skip tokens; its output for a skipped token is the bias of its last layer.

    Attributes:
        module: name of the part.
        kind: an MLP, or an attention, which still reads all tokens as keys and values.
        activations: components that have no row for a skipped token.
        n_tokens: number of tokens of an image.
        first: the layer or attention that receives fewer tokens.
        last: the layer that computes the output.
    """

    module: str
    kind: Literal["mlp", "attention"]
    activations: tuple[str, ...]
    n_tokens: int
    first: str
    last: str


def tokenwise_units(model: CapturedModel, inventory: Inventory) -> list[TokenwiseUnit]:
    """Find the parts of ``model`` that can skip tokens.

    These are MLPs of two layers with an activation function between, and attentions over a single sequence of tokens together
    with the linear layer behind.
    """
    macs = {operator.name: operator.macs for operator in inventory.operators}
    units = []
    for node in model.program.graph.nodes:
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        last = _last(model, node, attention=isinstance(module, Attention))
        if last is None or not isinstance(module, Attention | Layer):
            continue
        first, owner = str(node.target), last.rpartition(".")[0]
        if isinstance(module, Layer):
            inputs = inventory[f"{first}.input"]
            n_tokens = macs[first] // inventory[f"{first}.weight"].numel
            called_once = n_tokens == prod(inputs.shape[:-1])  # and without windows as its batch
            if called_once and first.rpartition(".")[0] == owner:
                units.append(TokenwiseUnit(owner, "mlp", (f"{first}.input", f"{last}.input"), n_tokens, first, last))
        else:
            softmax = (
                next(c for c in inventory if c.name == f"{owner}.softmax") if f"{owner}.softmax" in inventory.names else None
            )
            if softmax is None or softmax.heads < 1:
                continue
            n_tokens = softmax.shape[0] // softmax.heads
            if n_tokens == softmax.shape[1] and macs[last] == n_tokens * inventory[f"{last}.weight"].numel:
                names = (f"{owner}.q", f"{owner}.softmax", f"{last}.input")
                units.append(TokenwiseUnit(owner, "attention", names, n_tokens, first, last))
    return units


def _last(model: CapturedModel, node: fx.Node, attention: bool) -> str | None:
    """Return the linear layer that is the only reader of a module's output; None where there is none.

    Between them, values may be moved if the module is an attention; otherwise they may pass activation functions.
    """
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


def skip_tokens(model: CapturedModel, unit: TokenwiseUnit, kept: Sequence[int]) -> None:
    """Make ``unit`` of ``model`` compute only the tokens ``kept``, in place; copies of the model stay unchanged."""
    graph = copied(model.program.graph)
    calls = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
    first, last = calls[unit.first], calls[unit.last]
    bias: Any = model.get_submodule(unit.last).bias
    weight: Any = model.get_submodule(unit.last).weight
    fill = weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().clone()
    _before(model, graph, first, f"{unit.first}_gathered", GatherTokens(kept, unit.n_tokens))
    if unit.kind == "attention":
        value: Any = first.meta["val"]
        zeros = torch.zeros(int(value.shape[-1]))
        _behind(model, graph, first, f"{unit.first}_scattered", ScatterTokens(kept, unit.n_tokens, zeros))
        _before(model, graph, last, f"{unit.last}_gathered", GatherTokens(kept, unit.n_tokens))
    _behind(model, graph, last, f"{unit.last}_scattered", ScatterTokens(kept, unit.n_tokens, fill))
    model.program = Program(graph)


def _before(model: CapturedModel, graph: fx.Graph, node: fx.Node, name: str, module: nn.Module) -> None:
    """Insert a call of a module on the first operand of a node."""
    model.hold(name, module)
    source = node.args[0]
    with graph.inserting_before(node):
        new = graph.call_module(name, (source,))
    new.meta = dict(source.meta)  # type: ignore[union-attr]
    node.args = (new, *node.args[1:])


def _behind(model: CapturedModel, graph: fx.Graph, node: fx.Node, name: str, module: nn.Module) -> None:
    """Insert a call of a module on the value of a node, for all its readers."""
    model.hold(name, module)
    with graph.inserting_after(node):
        new = graph.call_module(name, (node,))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


class GatherTokens(nn.Module):
    """Module that gathers tokens ``(..., K, C)`` from ``(..., T, C)``; a map ``(B, H, W, C)`` is flattened first."""

    def __init__(self, kept: Sequence[int], total: int) -> None:
        super().__init__()
        self.leading, self.total, self.count = list(kept) == list(range(len(kept))), total, len(kept)
        self.register_buffer("kept", torch.tensor(list(kept), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the kept tokens ``(..., K, C)``."""
        if x.shape[-2] != self.total:
            x = x.flatten(1, -2)
        return x[..., : self.count, :] if self.leading else x.index_select(-2, self.get_buffer("kept"))


class ScatterTokens(nn.Module):
    """Module that scatters tokens ``(..., K, C)`` into ``(..., T, C)``, whose other tokens are ``fill`` ``(C,)``."""

    def __init__(self, kept: Sequence[int], total: int, fill: Tensor) -> None:
        super().__init__()
        places = {token: place for place, token in enumerate(kept)}
        back = torch.tensor([places.get(token, len(kept)) for token in range(total)])
        self.register_buffer("back", back, persistent=False)
        self.register_buffer("fill", fill, persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """Return all tokens ``(..., T, C)``."""
        fill = self.get_buffer("fill").expand(*y.shape[:-2], 1, y.shape[-1])
        return torch.cat([y, fill], -2).index_select(-2, self.get_buffer("back"))
