"""Residual streams: found from a norm that reads one, by all that writes to it and all that reads it."""

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
    """Something writes to a stream, or reads it, that a rotation may not pass."""


def residual_streams(model: CapturedModel) -> tuple[list[ResidualStream], list[str]]:
    """Give the streams that may be rotated, and why others may not: all that writes to one and reads it must be known."""
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
    """What a node is, as a user may find it: a layer, a parameter, or an operator and the module that it is of."""
    if not isinstance(node, fx.Node) or node.op in ("call_module", "get_attr"):
        return str(getattr(node, "target", node))
    path = path_of(node)
    return f"{getattr(packet(node), '__name__', node.name)}{path and f' of {path}'}"


class _Search:
    def __init__(self, model: CapturedModel, pairs: dict[fx.Node, NormPair]) -> None:
        self.model, self.pairs, self.follower = model, pairs, Follower(model)
        self.channels: dict[fx.Node, Channels] = {}
        self.left: list[fx.Node] = []

    def explore(self, node: fx.Node, width: int) -> ResidualStream:
        """The stream that a node is a value of; a norm over neighbours side by side begins with what wrote these."""
        self.stream = ResidualStream(width)
        self._join(node, self.follower.start(node, -1, width))
        while self.left:
            node = self.left.pop()
            self._written(node, self.channels[node])
            for reader in list(node.users):
                self._read(reader, node, self.channels[node])
        if not self.stream.writers or not self.stream.norms:
            raise _Unknown(f"{_named(node)} is written by no layer")
        return self.stream

    def _join(self, node: Any, channels: Channels | None) -> None:
        if channels is None or not isinstance(node, fx.Node):
            raise _Unknown(f"{_named(node)} mixes channels")
        if node in self.channels:
            if not torch.equal(self.channels[node].expanded(), channels.expanded()):
                raise _Unknown(f"channels meet in two orders at {_named(node)}")
            return
        self.channels[node] = channels
        self.left.append(node)

    def _written(self, node: fx.Node, channels: Channels) -> None:
        """What gives a value of the stream."""
        operator = packet(node)
        layer = layer_at(self.model, node)
        if layer is not None:
            index = channels.along(channel_axis(layer))
            if index is None or len(index) != self.stream.width or len(index.unique()) != len(index):
                raise _Unknown(f"{_named(node)} writes to a part of it")
            self.stream.writers.append(Writer(layer, index))
        elif node.op == "get_attr":
            self._parameter(node, channels)
        elif operator is aten.add:
            for term in node.args[:2]:
                self._join(term, self._broadcast(term, channels))
        elif operator is aten.cat:
            self._joined(node, channels)
        elif operator is aten.mul and self._is_one(node.args[1]):
            self._join(node.args[0], channels)
        elif (moves(node) and operator is not getitem) or operator in POOLS:
            self._join(node.args[0], self.follower.propagate_back(node, node.args[0], channels))  # type: ignore[arg-type]
        else:
            raise _Unknown(f"{_named(node)} writes to it")

    def _broadcast(self, term: Any, channels: Channels) -> Channels | None:
        """Channels of a term of a sum, which may have fewer axes and smaller ones than the sum."""
        if not isinstance(term, fx.Node) or term.meta.get("val") is None:
            return None
        shape = self.follower.shape(term)
        index = channels.index[(0,) * (channels.index.ndim - len(shape))]
        if any(size == 1 and n != 1 for size, n in zip(shape, index.shape, strict=True)):
            return None
        return Channels(index, shape, channels.padded)

    def _joined(self, node: fx.Node, channels: Channels) -> None:
        parts: Any = node.args[0]
        axis = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
        sizes = [self.follower.shape(part)[axis] for part in parts]
        for part, indices in zip(parts, channels.expanded().split(sizes, axis), strict=True):
            self._join(part, Channels.of(indices, channels.padded))

    def _parameter(self, node: fx.Node, channels: Channels) -> None:
        if any(user not in self.channels and user not in self.left for user in node.users) and len(node.users) != 1:
            raise _Unknown(f"{_named(node)} is read elsewhere too")
        tensor = self.model.tensor(str(node.target))
        for axis in range(tensor.ndim):
            index = channels.along(axis)
            if isinstance(tensor, torch.nn.Parameter) and index is not None and tensor.shape[axis] == self.stream.width:
                self.stream.tensors.append((tensor, axis, index))
                return
        raise _Unknown(f"{_named(node)} is added to it")

    def _is_one(self, node: Any) -> bool:
        parameter = parameter_of(self.model, node)
        return parameter is not None and bool((parameter == 1).all())

    def _read(self, reader: fx.Node, node: fx.Node, channels: Channels) -> None:
        """What reads a value of the stream."""
        operator, width = packet(reader), self.stream.width
        if reader in self.channels:
            return
        if reader in self.pairs:
            index, pair = channels.along(-1), self.pairs[reader]
            if index is None or len(index) % width:
                raise _Unknown(f"{_named(reader)} reads a part of it")
            self.stream.norms.append(pair.norm)
            self.stream.readers += [type(r)(r.layer, index[r.index]) for r in pair.readers]
        elif operator is aten.add:
            if self.follower.shape(reader) != channels.shape:
                raise _Unknown(f"{_named(reader)} spreads it")
            self._join(reader, channels)
        elif operator is aten.cat:
            self._beside(reader, node, channels)
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

    def _beside(self, reader: fx.Node, node: fx.Node, channels: Channels) -> None:
        """A concatenation along another axis than that of the channels."""
        axis = int(reader.args[1]) % len(channels.shape) if len(reader.args) > 1 else 0  # type: ignore[arg-type]
        if channels.index.shape[axis] != 1:
            raise _Unknown(f"{_named(reader)} lays channels side by side")
        self._join(reader, Channels(channels.index, self.follower.shape(reader), channels.padded))


def turn_tensor(tensor: Tensor, axis: int, index: Tensor, rotation: Tensor) -> Tensor:
    """Rotate a parameter's channels, which lie along ``axis``: double."""
    block = rotation[index][:, index]
    return torch.tensordot(tensor.double(), block, ([axis], [0])).movedim(-1, axis)
