"""Layers that compute an attention's queries, keys and values, channel by channel, and the layer that reads its output."""

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
    """Outputs ``rows[h, d]`` of a layer that an attention reads as queries, keys or values and that no other node reads."""

    layer: Layer
    rows: Tensor

    def turn(self, rotation: Tensor) -> None:
        """Rotate each head in place: ``x`` becomes ``x @ rotation``."""
        for parameter in (self.layer.weight, self.layer.bias):
            if parameter is not None:
                value = parameter.data.double()
                turned = torch.einsum("hd...,de->he...", value[self.rows], rotation)
                value[self.rows.reshape(-1)] = turned.flatten(0, 1)
                parameter.data.copy_(value)


@dataclass(frozen=True)
class Mixed:
    """Columns ``columns[h, d]`` of the only layer that reads an attention's output."""

    layer: Layer
    columns: Tensor

    def turn(self, rotation: Tensor) -> None:
        """Rotate the columns in place so that rotated heads give the same output as the original ones."""
        value = self.layer.weight.data.double()
        turned = torch.einsum("ohd...,de->ohe...", value[:, self.columns], rotation)
        value[:, self.columns.reshape(-1)] = turned.flatten(1, 2)
        self.layer.weight.data.copy_(value)


@dataclass(frozen=True)
class Heads:
    """An attention, or one of its two products, with the layers around it.

    Attributes:
        name: its module in the captured graph.
        scores: whether it multiplies queries and keys.
        mixes: whether it multiplies the softmax and values.
        q, k, v: the layers that compute its operands, None where they cannot be followed.
        mixed: the layer that reads its output, None where it cannot be followed.
    """

    name: str
    scores: bool
    mixes: bool
    q: Operand | None
    k: Operand | None
    v: Operand | None
    mixed: Mixed | None


def attentions(model: CapturedModel) -> list[Heads]:
    """Return all attentions of a model, in the order of its graph."""
    operands = _operands(model)
    follower, heads = Follower(model), list[Heads]()
    for node in model.structure.nodes:
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Attention) and not module.grouped:
            q, k, v = (operands.get((node, place)) for place in range(3))
            heads.append(Heads(str(node.target), True, True, q, k, v, mixed_at(model, follower, node)))
        elif isinstance(module, Product) and module.slots == ("q", "k") and module.transposed:
            heads.append(Heads(str(node.target), True, False, operands.get((node, 0)), operands.get((node, 1)), None, None))
        elif isinstance(module, Product) and module.slots == ("softmax", "v") and not module.transposed:
            v = operands.get((node, 1))
            heads.append(Heads(str(node.target), False, True, None, None, v, mixed_at(model, follower, node)))
    return heads


def _operands(model: CapturedModel) -> dict[tuple[fx.Node, int], Operand]:
    """Return operands of attentions that are outputs of a layer, possibly moved, by node and position of the argument."""
    follower = Follower(model)
    operands: dict[tuple[fx.Node, int], Operand] = {}
    for node in model.structure.nodes:
        layer = layer_at(model, node)
        if layer is None:
            continue
        leaves = list(follower.leaves(node, follower.start(node, channel_axis(layer), layer.outputs)))
        rows = [None if channels is None else _by_head(channels) for _, _, channels in leaves]
        counts = torch.zeros(layer.outputs, dtype=torch.int64)
        for _, _, channels in leaves:
            read = torch.arange(layer.outputs) if channels is None else channels.index.unique()
            counts[read[read != NONE]] += 1
        for (reader, source, _), outputs in zip(leaves, rows, strict=True):
            places = [place for place, a in enumerate(reader.args) if a is source]
            if outputs is not None and len(places) == 1 and bool((counts[outputs.reshape(-1)] == 1).all()):
                operands[reader, places[0]] = Operand(layer, outputs)
    return operands


def _by_head(channels: Channels) -> Tensor | None:
    """Return channels as ``(heads, width)`` of an operand ``(..., heads, tokens, width)``; None for another layout."""
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
    """Return the only layer that reads an attention's output, or None if it cannot be followed."""
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
    """Yield the layer that computes an attention's values and the layer that reads its output, where both are known."""
    for heads in attentions(model):
        if heads.v is not None and heads.mixed is not None and heads.v.rows.shape == heads.mixed.columns.shape:
            yield heads.v, heads.mixed
