"""Layers that make channels, found by walking back from their readers through operators that keep channels separate."""

from __future__ import annotations

from collections.abc import Iterable
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from pmq.graph.channels import NONE, Channels, Follower, channel_axis, layer_at
from pmq.graph.kinds import ACTIVATIONS
from pmq.graph.model import CapturedModel
from pmq.graph.nodes import path_of, shape_of
from pmq.graph.operators import aten, is_integer, moves, origin, packet

#: operators that compute each value from those at the same position
_ELEMENTWISE = (
    *(operator for operator in ACTIVATIONS if operator not in (aten.glu, aten.prelu)),
    *(aten.mul, aten.add, aten.sub, aten.div, aten.neg, aten.pow, aten.square, aten.rsqrt, aten.sqrt, aten.exp),
    *(aten.cos, aten.sin, aten.erf, aten.reciprocal, aten.abs),
)
#: operators that reduce or normalise along axes, which are their second argument
_ALONG = (aten.layer_norm, aten.rms_norm, aten.mean, aten.sum, aten.linalg_vector_norm, aten.norm)
_JOINS = (aten.cat, aten.concat, aten.stack)


class NotFollowed(Exception):
    """Raised where an operator mixes channels on the way to their layers, or where another node reads the channels."""


class Makers:
    """Backward walk from readers of channels that collects the layers which make them.

    Attributes:
        channels: channel number of each output ``(O,)`` by name of the layer, -1 for outputs that are no channel.
        activated: whether the walk passed an activation function, or a norm of the output of one.
    """

    def __init__(self, model: CapturedModel) -> None:
        self.channels: dict[str, Tensor] = {}
        self.activated = False
        self._model, self._follower = model, Follower(model)
        self._of_images = _of_images(model.program.graph)
        self._passed: set[fx.Node] = set()

    def follow(self, node: fx.Node, channels: Channels, moved: bool = False) -> set[str]:
        """Add the layers that make the ``channels`` of a node.

        With ``moved``, only operators that move values are allowed between the layers and the node.

        Returns:
            The names of these layers.

        Raises:
            NotFollowed: the channels do not come from layers alone.
        """
        outputs, passed, left = dict(self.channels), set[fx.Node](), [(node, channels)]
        names = set()
        while left:
            node, channels = left.pop()
            passed.add(node)
            layer = layer_at(self._model, node)
            if layer is not None:
                names.add(str(node.target))
                _assign(outputs, str(node.target), channels, channel_axis(layer))
            elif moves(node):
                left.append(self._unmoved(node, channels, passed))
            elif moved:
                raise NotFollowed(f"{_describe(node)} is not supported between its layers")
            else:
                left += self._behind(node, channels)
        self.channels = outputs
        self._passed |= passed
        return names

    def check_read_by(self, *readers: fx.Node) -> None:
        """Check that only ``readers`` read the nodes on the way.

        Raises:
            NotFollowed: another node reads one of them.
        """
        for node in self._passed:
            other_readers = [user for user in node.users if user not in self._passed and user not in readers]
            if other_readers:
                raise NotFollowed(f"{_describe(other_readers[0])} reads its channels as well")

    def _behind(self, node: fx.Node, channels: Channels) -> list[tuple[fx.Node, Channels]]:
        """Return the operands of a node that layers may have computed, with their channels."""
        operator: Any = packet(node)
        if operator in _ELEMENTWISE:
            self.activated |= operator in ACTIVATIONS
            return list(self._elementwise(node, channels))
        if operator in _ALONG:
            source: Any = node.args[0]
            self.activated |= packet(origin(source)) in ACTIVATIONS
            return [(source, self._constant_along(node, source, channels))]
        if operator in _JOINS:
            return list(self._concatenated(node, channels))
        raise NotFollowed(f"{_describe(node)} is not supported between its layers")

    def _unmoved(self, node: fx.Node, channels: Channels, passed: set[fx.Node]) -> tuple[fx.Node, Channels]:
        """Return the operand of a node that moves values, with its channels."""
        source: Any = node.args[0]
        part = None
        if packet(node) is getitem:
            passed.add(source)
            part, node, source = int(node.args[1]), source, source.args[0]  # type: ignore[arg-type]
            if not moves(node):
                raise NotFollowed(f"{_describe(node)} is not supported between its layers")
        source_channels = self._follower.propagate_back(node, source, channels, part, foreign=True)
        if source_channels is None:
            raise NotFollowed(f"{_describe(node)} reads a value as several channels")
        return source, source_channels

    def _elementwise(self, node: fx.Node, channels: Channels) -> Iterable[tuple[fx.Node, Channels]]:
        """Yield the operands of an elementwise operator that depend on the images, with their channels."""
        rank = len(channels.shape)
        for operand in (a for a in node.args if isinstance(a, fx.Node) and shape_of(a) is not None and not is_integer(a)):
            shape = self._follower.shape(operand)
            aligned = (1,) * (rank - len(shape)) + shape
            along_channels = [size > 1 and channels.index.shape[axis] > 1 for axis, size in enumerate(aligned)]
            channel_axes = [size > 1 for size in channels.index.shape]
            if operand not in self._of_images:
                if any(along_channels):
                    raise NotFollowed(f"{_describe(operand)} has a value for each channel")
            elif along_channels != channel_axes:
                if any(along_channels):
                    raise NotFollowed(f"{_describe(node)} mixes channels")
            else:
                yield operand, Channels(channels.index.reshape(channels.index.shape[rank - len(shape) :]), shape)

    def _constant_along(self, node: fx.Node, source: fx.Node, channels: Channels) -> Channels:
        """Return the channels of the operand of an operator that mixes values along axes on which channels are constant."""
        shape, argument = self._follower.shape(source), node.args[1] if len(node.args) > 1 else None
        if packet(node) in (aten.layer_norm, aten.rms_norm):
            axes = {len(shape) - 1 - i for i in range(len(argument))}  # type: ignore[arg-type]
        else:
            place = 2 if packet(node) in (aten.linalg_vector_norm, aten.norm) else 1
            dims: Any = node.args[place] if len(node.args) > place else None
            keeps_dims = len(node.args) > place + 1 and bool(node.args[place + 1])
            if dims is None or not keeps_dims:
                raise NotFollowed(f"{_describe(node)} mixes channels")
            axes = {int(axis) % len(shape) for axis in (dims if isinstance(dims, list | tuple) else [dims])}
        if len(channels.shape) != len(shape) or any(channels.index.shape[axis] != 1 for axis in axes):
            raise NotFollowed(f"{_describe(node)} mixes channels")
        return Channels(channels.index, shape)

    def _concatenated(self, node: fx.Node, channels: Channels) -> Iterable[tuple[fx.Node, Channels]]:
        """Yield the parts of a concatenation that depend on the images, with their channels."""
        parts: Any = node.args[0]
        axis, numbers, at = int(node.args[1]) if len(node.args) > 1 else 0, channels.expanded(), 0  # type: ignore[arg-type]
        for part in parts:
            if packet(node) is aten.stack:
                part_channels = Channels.of(numbers.select(axis, at), foreign=True)
                at += 1
            else:
                size = self._follower.shape(part)[axis]
                part_channels = Channels.of(numbers.narrow(axis, at, size), foreign=True)
                at += size
            if part in self._of_images:
                yield part, part_channels


def _assign(outputs: dict[str, Tensor], name: str, channels: Channels, axis: int) -> None:
    """Record in ``outputs`` the channel of each output of a layer, which must be the same at all positions."""
    by_place = channels.index.movedim(axis, -1).flatten(0, -2)
    numbers = by_place.amax(0).expand(channels.shape[axis])
    if not bool(((by_place == numbers) | (by_place == NONE)).all()):
        raise NotFollowed(f"{name!r} makes different channels at different positions")
    known = outputs.get(name, torch.full_like(numbers, NONE))
    if bool(((known != NONE) & (numbers != NONE) & (known != numbers)).any()):
        raise NotFollowed(f"an output of {name!r} is read as several channels")
    outputs[name] = torch.where(known == NONE, numbers, known)


def _of_images(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose values depend on the images."""
    dependent: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (not is_integer(node) and any(a in dependent for a in node.all_input_nodes)):
            dependent.add(node)
    return dependent


def _describe(node: fx.Node) -> str:
    """Return a readable name of a node: a module, a parameter, or an operator and the module that calls it."""
    if node.op in ("call_module", "get_attr"):
        return repr(str(node.target))
    if node.op == "output":
        return "the model's output"
    name = getattr(packet(node), "__name__", str(node.target))
    return f"{name} in {path_of(node)!r}"
