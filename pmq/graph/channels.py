"""Tracking of channels through a captured graph: which channel of a layer or norm each value of a later tensor is.

Operators that move values need no rules of their own: they are run on channel numbers in place of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pmq.graph.model import CapturedModel
from pmq.graph.nodes import shape_of
from pmq.graph.operators import aten, is_integer, moves, packet
from pmq.graph.taps import Layer

#: operators that mix positions by fixed weights that sum to one, each channel separately
POOLS = (aten.mean, aten.adaptive_avg_pool2d, aten.avg_pool2d)
#: channel number of values that belong to no channel, such as zeros of a padding
NONE = -1


@dataclass(frozen=True)
class Channels:
    """Channel number of each value of a tensor.

    Attributes:
        index: channel numbers, with the tensor's number of axes, of size 1 along axes on which they do not depend.
        shape: shape of the tensor for one image.
        padded: whether some of its values are padded zeros that belong to no channel.
    """

    index: Tensor
    shape: tuple[int, ...]
    padded: bool = False

    def along(self, axis: int) -> Tensor | None:
        """Return the channels by position along an axis ``(shape[axis],)``; None if they depend on another axis as well."""
        axis %= len(self.shape)
        if any(size != 1 for a, size in enumerate(self.index.shape) if a != axis):
            return None
        return self.index.reshape(-1).expand(self.shape[axis])

    @classmethod
    def of(cls, values: Tensor, padded: bool = False, foreign: bool = False) -> Channels:
        """Summarise the channel number of each value.

        With ``foreign``, values without a channel come from other layers; otherwise they are padding.
        """
        shape = tuple(values.shape)
        for axis, size in enumerate(shape):
            if size > 1:
                most = values.amax(axis, keepdim=True)
                if bool(((values == most) | ((values == NONE) & (not foreign))).all()):
                    values = most
        return cls(values, shape, padded or (not foreign and bool((values == NONE).any())))

    def expanded(self) -> Tensor:
        """Return the channel number of every value, in the shape of the tensor."""
        return self.index.expand(self.shape).contiguous()


class Follower:
    """Propagation of channel numbers through the graph of ``model``, for one image."""

    def __init__(self, model: CapturedModel) -> None:
        self.model, self.graph = model, model.structure

    def start(self, node: fx.Node, axis: int, count: int) -> Channels:
        """Return the channels of a tensor whose ``count`` channels lie along ``axis``."""
        shape = self.shape(node)
        sizes = [1] * len(shape)
        sizes[axis % len(shape)] = count
        return Channels(torch.arange(count).reshape(sizes), shape)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape of a node's value for one image."""
        shape = shape_of(node)
        assert shape is not None
        return tuple(_for_one(size) for size in shape)

    def leaves(
        self, node: fx.Node, channels: Channels, pools: bool = False
    ) -> Iterator[tuple[fx.Node, fx.Node, Channels | None]]:
        """Yield each downstream reader that does more than move values, with the node that it reads and the channels there.

        With ``pools``, averages over positions are traversed as well. Channels are None where they are mixed.
        """
        for reader in node.users:
            if reader.args[:1] == (node,) and (moves(reader) or (pools and packet(reader) in POOLS)):
                for part, further in self._forward(reader, node, channels):
                    if further is None:
                        yield reader, node, None
                    else:
                        yield from self.leaves(part, further, pools)
            else:
                yield reader, node, channels

    def _forward(self, reader: fx.Node, node: fx.Node, channels: Channels) -> Iterator[tuple[fx.Node, Channels | None]]:
        """Yield a reader and the channels of its value; of an operator that returns several tensors, each that is read."""
        result = self.propagate(reader, node, channels)
        if isinstance(result, list):
            for user in reader.users:
                yield user, result[user.args[1]]  # type: ignore[index]
        else:
            yield reader, result

    def propagate(self, reader: fx.Node, node: fx.Node, channels: Channels) -> Any:
        """Return the channels of the value of ``reader``, which moves or averages values of ``node``.

        Returns:
            Channels, or a list of them where the operator returns several tensors; None where channels are mixed.
        """
        if packet(reader) in POOLS:
            return self._pooled(reader, channels)
        numbers = self._run(reader, node, channels.expanded() + 1)  # operators pad with 0, which becomes NONE
        if isinstance(numbers, list | tuple):
            return [Channels.of(part - 1, channels.padded) for part in numbers]
        return Channels.of(numbers - 1, channels.padded)

    def propagate_back(
        self, reader: fx.Node, node: fx.Node, channels: Channels, part: int | None = None, foreign: bool = False
    ) -> Channels | None:
        """Return the channels of ``node``, from the ``channels`` of the value of ``reader`` or of its ``part``.

        This is the inverse of :meth:`propagate`. Values that ``reader`` does not return count as padding, or with ``foreign``
        as values from other layers.

        Returns:
            The channels; None where one value would be several channels.
        """
        if packet(reader) in POOLS:
            return self._unpooled(reader, node, channels)
        shape = self.shape(node)
        count = int(torch.Size(shape).numel())
        places = self._run(reader, node, torch.arange(1, count + 1).reshape(shape))
        places = places if part is None else places[part]
        numbers = channels.expanded().reshape(-1)
        places = places.reshape(-1)
        inside = places > 0
        source_numbers = torch.full((count,), NONE)
        source_numbers[places[inside] - 1] = numbers[inside]
        if not bool((source_numbers[places[inside] - 1] == numbers[inside]).all()):
            return None
        return Channels.of(source_numbers.reshape(shape), channels.padded, foreign)

    def _pooled(self, reader: fx.Node, channels: Channels) -> Channels | None:
        shape, rank = self.shape(reader), len(channels.shape)
        if packet(reader) is aten.mean:
            axes = reader.args[1] if len(reader.args) > 1 else None
            if axes is None:
                return None
            pooled = {int(axis) % rank for axis in axes}  # type: ignore[union-attr,arg-type]
            keep = bool(reader.args[2]) if len(reader.args) > 2 else False
        else:
            pooled, keep = {rank - 2, rank - 1}, True
        if any(channels.index.shape[axis] != 1 for axis in pooled):
            return None
        index = (
            channels.index if keep else channels.index.reshape([n for a, n in enumerate(channels.index.shape) if a not in pooled])
        )
        return Channels(index, shape, channels.padded)

    def _unpooled(self, reader: fx.Node, node: fx.Node, channels: Channels) -> Channels | None:
        shape = self.shape(node)
        rank = len(shape)
        if packet(reader) is not aten.mean:
            index = channels.index
        else:
            axes = {int(axis) % rank for axis in reader.args[1]}  # type: ignore[union-attr,arg-type]
            sizes = iter(channels.index.shape)
            keep = bool(reader.args[2]) if len(reader.args) > 2 else False
            index = channels.index if keep else channels.index.reshape([1 if a in axes else next(sizes) for a in range(rank)])
        return Channels(index, shape, channels.padded) if index.ndim == rank else None

    def _run(self, reader: fx.Node, node: fx.Node, values: Tensor) -> Any:
        """Run ``reader`` on ``values`` in place of the value of ``node``."""
        arguments, settings = (
            fx.map_arg(part, lambda n: self._argument(n, node, values)) for part in (reader.args, reader.kwargs)
        )
        if packet(reader) in (aten.to, aten._to_copy, aten.type_as):
            return values
        return reader.target(*arguments, **settings)  # type: ignore[operator,arg-type]

    def _argument(self, argument: fx.Node, node: fx.Node, values: Tensor) -> Any:
        if argument is node:
            return values
        if is_integer(argument):
            return _for_one(argument.meta["val"])
        return torch.empty(1, dtype=values.dtype).expand(self.shape(argument))  # only its shape matters


def layer_at(model: CapturedModel, node: fx.Node) -> Layer | None:
    """Return the layer called at a node, if this is its only call and it computes each position separately; else None."""
    if node.op != "call_module":
        return None
    layer = model.get_submodule(str(node.target))
    if not isinstance(layer, Layer) or model.program.calls[str(node.target)] != 1:
        return None
    return layer if layer.kind == "linear" or (layer.kind == "conv2d" and layer.groups == 1) else None


def channel_axis(layer: Layer) -> int:
    """Return the channel axis of a layer's input and output."""
    return -1 if layer.kind == "linear" else 1


def _for_one(size: Any) -> int:
    """Return the number that a possibly symbolic size is for one image."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
