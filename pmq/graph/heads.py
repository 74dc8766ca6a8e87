"""Where an attention's queries, keys and values are made, channel by channel, and where what it gives is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from pmq.graph.channels import NONE, Channels, Follower, channel_axis, layer_at
from pmq.graph.model import CapturedModel
from pmq.graph.taps import Attention, Layer, Product


@dataclass(frozen=True)
class Operand:
    """Outputs of a layer that an attention reads as queries, keys or values: ``rows[h, d]``, for nobody else to read."""

    layer: Layer
    rows: Tensor

    def turn(self, rotation: Tensor) -> None:
        """Rotate each head: ``x @ rotation`` in place of ``x``."""
        for parameter in (self.layer.weight, self.layer.bias):
            if parameter is not None:
                value = parameter.data.double()
                turned = torch.einsum("hd...,de->he...", value[self.rows], rotation)
                value[self.rows.reshape(-1)] = turned.flatten(0, 1)
                parameter.data.copy_(value)


@dataclass(frozen=True)
class Mixed:
    """Columns of the layer that reads what an attention gives, for nobody else to read: ``columns[h, d]``."""

    layer: Layer
    columns: Tensor

    def turn(self, rotation: Tensor) -> None:
        """Make the layer compute of rotated heads what it did of plain ones."""
        value = self.layer.weight.data.double()
        turned = torch.einsum("ohd...,de->ohe...", value[:, self.columns], rotation)
        value[:, self.columns.reshape(-1)] = turned.flatten(1, 2)
        self.layer.weight.data.copy_(value)


@dataclass(frozen=True)
class Heads:
    """An attention, or one of its two products, with what is known of its operands; what is not known is missing.

    ``scores`` and ``mixes`` tell which of the products it has.
    """

    name: str
    scores: bool
    mixes: bool
    q: Operand | None
    k: Operand | None
    v: Operand | None
    mixed: Mixed | None


def attentions(model: CapturedModel) -> list[Heads]:
    """All attentions of a model, in the order of its graph."""
    operands = _operands(model)
    follower, found = Follower(model), []
    for node in model.program.graph.nodes:
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Attention) and not module.grouped:
            q, k, v = (operands.get((node, place)) for place in range(3))
            found.append(Heads(str(node.target), True, True, q, k, v, mixed_at(model, follower, node)))
        elif isinstance(module, Product) and module.slots == ("q", "k") and module.transposed:
            found.append(Heads(str(node.target), True, False, operands.get((node, 0)), operands.get((node, 1)), None, None))
        elif isinstance(module, Product) and module.slots == ("softmax", "v") and not module.transposed:
            v = operands.get((node, 1))
            found.append(Heads(str(node.target), False, True, None, None, v, mixed_at(model, follower, node)))
    return found


def _operands(model: CapturedModel) -> dict[tuple[fx.Node, int], Operand]:
    """Operands of attentions that are outputs of a layer, moved at most: by node and place among what it is given."""
    follower = Follower(model)
    found: dict[tuple[fx.Node, int], Operand] = {}
    for node in model.program.graph.nodes:
        layer = layer_at(model, node)
        if layer is None:
            continue
        leaves = list(follower.leaves(node, follower.start(node, channel_axis(layer), layer.outputs)))
        rows = [None if channels is None else _by_head(channels) for _, _, channels in leaves]
        counts = torch.zeros(layer.outputs, dtype=torch.int64)
        for _, _, channels in leaves:
            read = torch.arange(layer.outputs) if channels is None else channels.index.unique()
            counts[read[read != NONE]] += 1
        for (reader, source, _), own in zip(leaves, rows, strict=True):
            places = [place for place, a in enumerate(reader.args) if a is source]
            if own is not None and len(places) == 1 and bool((counts[own.reshape(-1)] == 1).all()):
                found[reader, places[0]] = Operand(layer, own)
    return found


def _by_head(channels: Channels) -> Tensor | None:
    """Channels as ``(heads, width)`` of an operand ``(..., heads, tokens, width)``; nothing where it is laid out otherwise."""
    index = channels.index
    if (
        channels.padded
        or index.ndim < 3
        or any(size != 1 for axis, size in enumerate(index.shape) if axis not in (index.ndim - 3, index.ndim - 1))
    ):
        return None
    heads = index.expand(*index.shape[:-3], channels.shape[-3], 1, channels.shape[-1]).reshape(channels.shape[-3], -1)
    return heads if heads.unique().numel() == heads.numel() else None


def mixed_at(model: CapturedModel, follower: Follower, node: fx.Node) -> Mixed | None:
    """The layer that reads what an attention gives."""
    shape = follower.shape(node)
    if len(shape) < 3:
        return None
    heads, width = shape[-3], shape[-1]
    numbers = torch.arange(heads * width).reshape(*[1] * (len(shape) - 3), heads, 1, width)
    leaves = list(follower.leaves(node, Channels(numbers, shape)))
    if len(leaves) != 1:
        return None
    reader, _, channels = leaves[0]
    layer = layer_at(model, reader)
    index = None if layer is None or channels is None or channels.padded else channels.along(channel_axis(layer))
    if (
        layer is None
        or index is None
        or len(index) != layer.weight.shape[1]
        or sorted(index.tolist()) != list(range(heads * width))
    ):
        return None
    return Mixed(layer, index.argsort().reshape(heads, width))


def each_value(model: CapturedModel) -> Iterator[tuple[Operand, Mixed]]:
    """Where values are made and where what is mixed of them is read, as far as both are known."""
    for heads in attentions(model):
        if heads.v is not None and heads.mixed is not None and heads.v.rows.shape == heads.mixed.columns.shape:
            yield heads.v, heads.mixed
