"""Search for residual streams, which starts at the norms that read them and follows all writers and readers."""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from pmq.graph import CapturedModel
from pmq.graph.channels import POOLS, Channels, Follower, channel_axis, layer_at
from pmq.graph.nodes import path_of
from pmq.graph.operators import aten, moves, packet
from pmq.quant.transforms.structure import (
    NormPair,
    ResidualStream,
    Writer,
    norm_pairs,
    parameter_of,
    reader_at,
)


class _Unknown(Exception):
    """An operator that cannot be rotated writes to a stream or reads it."""


def residual_streams(model: CapturedModel) -> tuple[list[ResidualStream], list[str]]:
    """Return the streams that can be rotated, as all their writers and readers are known, and reasons why others cannot."""
    pairs = {pair.norm.node: pair for pair in norm_pairs(model)}
    streams, reasons, seen = [], [], set[fx.Node]()
    for pair in pairs.values():
        source = pair.norm.node.args[0]
        assert isinstance(source, fx.Node)
        if source in seen:
            continue
        search = _Search(model, pairs)
        try:
            streams.append(search.explore(source, len(pair.norm.weight)))
        except _Unknown as reason:
            reasons.append(str(reason))
        seen |= search.channels.keys()
    return streams, list(dict.fromkeys(reasons))


def _named(node: Any) -> str:
    """Return a description of a node for messages: a layer, a parameter, or an operator and its module."""
    if not isinstance(node, fx.Node) or node.op in ("call_module", "get_attr"):
        return str(getattr(node, "target", node))
    path = path_of(node)
    return f"{getattr(packet(node), '__name__', node.name)}{path and f' of {path}'}"


class _Search:
    """Search for the residual stream of a norm, from node to node of a captured graph."""

    def __init__(self, model: CapturedModel, pairs: dict[fx.Node, NormPair]) -> None:
        self.model, self.pairs, self.follower = model, pairs, Follower(model)
        self.channels: dict[fx.Node, Channels] = {}
        self.pending: list[fx.Node] = []

    def explore(self, node: fx.Node, width: int) -> ResidualStream:
        """Return the stream that contains the value of ``node``, with ``width`` channels; raise if it cannot be rotated."""
        self.stream = ResidualStream(width)
        self._join(node, self.follower.start(node, -1, width))
        while self.pending:
            node = self.pending.pop()
            self._written(node, self.channels[node])
            for reader in list(node.users):
                self._read(reader, node, self.channels[node])
        if not self.stream.writers or not self.stream.norms:
            raise _Unknown(f"no layer writes {_named(node)} or no norm reads it")
        return self.stream

    def _join(self, node: Any, channels: Channels | None) -> None:
        """Add a node to the stream; raise if its channels are unknown or differ from those already recorded."""
        if channels is None or not isinstance(node, fx.Node):
            raise _Unknown(f"{_named(node)} mixes channels")
        if node in self.channels:
            if not torch.equal(self.channels[node].expanded(), channels.expanded()):
                raise _Unknown(f"{_named(node)} combines the stream's channels in different orders")
            return
        self.channels[node] = channels
        self.pending.append(node)

    def _written(self, node: fx.Node, channels: Channels) -> None:
        """Record the writer of a value of the stream, or continue with the operands of the node."""
        operator = packet(node)
        layer = layer_at(self.model, node)
        if layer is not None:
            index = channels.along(channel_axis(layer))
            if index is None or len(index) != self.stream.width or len(index.unique()) != len(index):
                raise _Unknown(f"{_named(node)} writes to only a part of the stream's channels")
            self.stream.writers.append(Writer(layer, index))
        elif node.op == "get_attr":
            self._parameter(node, channels)
        elif operator is aten.add:
            for term in node.args[:2]:
                self._join(term, self._broadcast(term, channels))
        elif operator is aten.cat:
            self._concatenated(node, channels)
        elif operator is aten.mul and self._is_one(node.args[1]):
            self._join(node.args[0], channels)
        elif (moves(node) and operator is not getitem) or operator in POOLS:
            self._join(node.args[0], self.follower.propagate_back(node, node.args[0], channels))  # type: ignore[arg-type]
        else:
            raise _Unknown(f"{_named(node)} writes to it")

    def _broadcast(self, term: Any, channels: Channels) -> Channels | None:
        """Return the channels of a term that is broadcast in a sum, or None if it is broadcast along channels."""
        if not isinstance(term, fx.Node) or term.meta.get("val") is None:
            return None
        shape = self.follower.shape(term)
        index = channels.index[(0,) * (channels.index.ndim - len(shape))]
        if any(size == 1 and n != 1 for size, n in zip(shape, index.shape, strict=True)):
            return None
        return Channels(index, shape, channels.padded)

    def _concatenated(self, node: fx.Node, channels: Channels) -> None:
        """Add the operands of a concatenation, which writes to the stream."""
        parts: Any = node.args[0]
        axis = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
        sizes = [self.follower.shape(part)[axis] for part in parts]
        for part, indices in zip(parts, channels.expanded().split(sizes, axis), strict=True):
            self._join(part, Channels.of(indices, channels.padded))

    def _parameter(self, node: fx.Node, channels: Channels) -> None:
        """Record a parameter that is added to the stream."""
        if any(user not in self.channels and user not in self.pending for user in node.users) and len(node.users) != 1:
            raise _Unknown(f"{_named(node)} also has other readers")
        tensor = self.model.tensor(str(node.target))
        for axis in range(tensor.ndim):
            index = channels.along(axis)
            if isinstance(tensor, torch.nn.Parameter) and index is not None and tensor.shape[axis] == self.stream.width:
                self.stream.tensors.append((tensor, axis, index))
                return
        raise _Unknown(f"{_named(node)} is added to it")

    def _is_one(self, node: Any) -> bool:
        """Return whether a node is a parameter whose values are all 1."""
        parameter = parameter_of(self.model, node)
        return parameter is not None and bool((parameter == 1).all())

    def _read(self, reader: fx.Node, node: fx.Node, channels: Channels) -> None:
        """Record the reader of a value of the stream, or continue with its result."""
        operator, width = packet(reader), self.stream.width
        if reader in self.channels:
            return
        if reader in self.pairs:
            index, pair = channels.along(-1), self.pairs[reader]
            if index is None or len(index) % width:
                raise _Unknown(f"{_named(reader)} reads only a part of the stream's channels")
            self.stream.norms.append(pair.norm)
            self.stream.readers += [type(r)(r.layer, index[r.index]) for r in pair.readers]
        elif operator is aten.add:
            if self.follower.shape(reader) != channels.shape:
                raise _Unknown(f"{_named(reader)} broadcasts it")
            self._join(reader, channels)
        elif operator is aten.cat:
            self._concatenation(reader, channels)
        elif operator is aten.mul and node is reader.args[0] and self._is_one(reader.args[1]):
            self._join(reader, channels)
        elif moves(reader) or operator in POOLS:
            result = self.follower.propagate(reader, node, channels)
            if isinstance(result, list):
                for user in reader.users:
                    self._join(user, result[user.args[1]])  # type: ignore[index]
            else:
                self._join(reader, result)
        else:
            direct = reader_at(self.model, reader, node, channels, kernels=True)
            if direct is None:
                raise _Unknown(f"{_named(reader)} reads it")
            self.stream.readers.append(direct)

    def _concatenation(self, reader: fx.Node, channels: Channels) -> None:
        """Continue with a concatenation, which must be along another axis than that of the channels."""
        axis = int(reader.args[1]) % len(channels.shape) if len(reader.args) > 1 else 0  # type: ignore[arg-type]
        if channels.index.shape[axis] != 1:
            raise _Unknown(f"{_named(reader)} concatenates the stream's channels")
        self._join(reader, Channels(channels.index, self.follower.shape(reader), channels.padded))


def turn_tensor(tensor: Tensor, axis: int, index: Tensor, rotation: Tensor) -> Tensor:
    """Return a parameter with rotated channels along ``axis``, in double precision."""
    block = rotation[index][:, index]
    return torch.tensordot(tensor.double(), block, ([axis], [0])).movedim(-1, axis)
