"""Follow channels through a captured graph: which channel of a layer or norm each value of a later tensor is.

Nothing is known of any operator that moves values but what it does: it is run on numbers of channels in place of values.
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

#: operators that mix positions by fixed weights that sum to one, each channel by itself
POOLS = (aten.mean, aten.adaptive_avg_pool2d, aten.avg_pool2d)
#: what stands for values that are no channel's: zeros that were padded
NONE = -1


@dataclass(frozen=True)
class Channels:
    """Number of the channel that each value of a tensor is.

    Attributes:
        index: with the tensor's number of axes, and of size 1 along those on which it does not depend.
        shape: of the tensor for one image.
        padded: whether some of its values are zeros that are no channel's.
    """

    index: Tensor
    shape: tuple[int, ...]
    padded: bool = False

    def along(self, axis: int) -> Tensor | None:
        """Channels by position along an axis, if they depend on no other: ``(shape[axis],)``."""
        axis %= len(self.shape)
        others = [size for a, size in enumerate(self.index.shape) if a != axis]
        if any(size != 1 for size in others):
            return None
        return self.index.reshape(-1).expand(self.shape[axis])

    @classmethod
    def of(cls, values: Tensor, padded: bool = False, others: bool = False) -> Channels:
        """Summarise the channel of each value; ``others`` says that what is no channel is somebody else's, and no padding."""
        shape = tuple(values.shape)
        for axis, size in enumerate(shape):
            if size > 1:
                most = values.amax(axis, keepdim=True)
                if bool(((values == most) | ((values == NONE) & (not others))).all()):
                    values = most
        return cls(values, shape, padded or (not others and bool((values == NONE).any())))

    def whole(self) -> Tensor:
        """The channel of each value."""
        return self.index.expand(self.shape).contiguous()


class Follower:
    """Follows channels through the graph of ``model``, for one image."""

    def __init__(self, model: CapturedModel) -> None:
        self.model, self.graph = model, model.program.graph

    def start(self, node: fx.Node, axis: int, count: int) -> Channels:
        """Channels of a tensor that lie along ``axis``."""
        shape = self.shape(node)
        sizes = [1] * len(shape)
        sizes[axis % len(shape)] = count
        return Channels(torch.arange(count).reshape(sizes), shape)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of what a node gives for one image."""
        shape = shape_of(node)
        assert shape is not None
        return tuple(_for_one(size) for size in shape)

    def leaves(
        self, node: fx.Node, channels: Channels, pools: bool = False
    ) -> Iterator[tuple[fx.Node, fx.Node, Channels | None]]:
        """Give each reader that does more than move values, with the node that it reads and the channels there.

        ``pools`` passes averages over positions as well.
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
        """Channels of what a reader gives; of an operator that gives several tensors, of each that is read."""
        result = self.passed(reader, node, channels)
        if isinstance(result, list):
            for user in reader.users:
                yield user, result[user.args[1]]  # type: ignore[index]
        else:
            yield reader, result

    def passed(self, reader: fx.Node, node: fx.Node, channels: Channels) -> Any:
        """Channels of what an operator that moves or averages values gives, or a list of them; nothing where they are mixed."""
        if packet(reader) in POOLS:
            return self._pooled(reader, channels)
        numbers = self._run(reader, node, channels.whole() + 1)  # what an operator fills up with are zeros
        if isinstance(numbers, list | tuple):
            return [Channels.of(part - 1, channels.padded) for part in numbers]
        return Channels.of(numbers - 1, channels.padded)

    def came(
        self, reader: fx.Node, node: fx.Node, channels: Channels, part: int | None = None, others: bool = False
    ) -> Channels | None:
        """Undo :meth:`passed`: channels of the tensor that an operator reads, given those of what it gives, or of a ``part``.

        What it does not give is padding, or with ``others`` somebody else's.
        """
        if packet(reader) in POOLS:
            return self._unpooled(reader, node, channels)
        shape = self.shape(node)
        count = int(torch.Size(shape).numel())
        places = self._run(reader, node, torch.arange(1, count + 1).reshape(shape))
        places = places if part is None else places[part]
        wanted = channels.whole().reshape(-1)
        places = places.reshape(-1)
        inside = places > 0
        found = torch.full((count,), NONE)
        found[places[inside] - 1] = wanted[inside]
        if not bool((found[places[inside] - 1] == wanted[inside]).all()):
            return None
        return Channels.of(found.reshape(shape), channels.padded, others)

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
        """Run a node on numbers in place of what it reads from ``node``."""
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
        return torch.empty(1, dtype=values.dtype).expand(self.shape(argument))  # of which the shape counts


def layer_at(model: CapturedModel, node: fx.Node) -> Layer | None:
    """The layer called at a node, if it is called there alone and multiplies each position by itself."""
    if node.op != "call_module":
        return None
    layer = model.get_submodule(str(node.target))
    if not isinstance(layer, Layer) or model.program.calls[str(node.target)] != 1:
        return None
    return layer if layer.kind == "linear" or (layer.kind == "conv2d" and layer.groups == 1) else None


def channel_axis(layer: Layer) -> int:
    """Where the channels of what a layer reads and gives lie."""
    return -1 if layer.kind == "linear" else 1


def _for_one(size: Any) -> int:
    """A size for one image."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
