"""Which layers make channels: followed from where these are read, back through all that computes each channel by itself."""

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

#: operators that compute each value from those at the same place
_EACH = (
    *(operator for operator in ACTIVATIONS if operator not in (aten.glu, aten.prelu)),
    *(aten.mul, aten.add, aten.sub, aten.div, aten.neg, aten.pow, aten.square, aten.rsqrt, aten.sqrt, aten.exp),
    *(aten.cos, aten.sin, aten.erf, aten.reciprocal, aten.abs),
)
#: operators that compute with all values along axes that they name second
_ALONG = (aten.layer_norm, aten.rms_norm, aten.mean, aten.sum, aten.linalg_vector_norm, aten.norm)
_JOINS = (aten.cat, aten.concat, aten.stack)


class NotFollowed(Exception):
    """Something lies between that does not compute each channel by itself, or somebody else reads the channels."""


class Makers:
    """Walks back from readers of channels, and collects the layers that make them.

    Attributes:
        found: layer -> the channel that each of its outputs is ``(O,)``, or -1.
        activated: whether an activation function was met, or a norm of what one gives.
    """

    def __init__(self, model: CapturedModel) -> None:
        self.found: dict[str, Tensor] = {}
        self.activated = False
        self._model, self._follower = model, Follower(model)
        self._of_images = _of_images(model.program.graph)
        self._passed: set[fx.Node] = set()

    def follow(self, node: fx.Node, channels: Channels, moved: bool = False) -> set[str]:
        """Add the layers that make ``channels`` of a node; give their names.

        Channels may be ``moved`` only, and nothing be computed of them on the way, if that is wanted.

        Raises:
            NotFollowed: they are not made by layers alone.
        """
        made, passed, left = dict(self.found), set[fx.Node](), [(node, channels)]
        names = set()
        while left:
            node, channels = left.pop()
            passed.add(node)
            layer = layer_at(self._model, node)
            if layer is not None:
                names.add(str(node.target))
                _make(made, str(node.target), channels, channel_axis(layer))
            elif moves(node):
                left.append(self._unmoved(node, channels, passed))
            elif moved:
                raise NotFollowed(f"{_named(node)} lies between")
            else:
                left += self._behind(node, channels)
        self.found = made
        self._passed |= passed
        return names

    def check_read_by(self, *readers: fx.Node) -> None:
        """Raise unless ``readers`` alone read what was passed.

        Raises:
            NotFollowed: others do.
        """
        for node in self._passed:
            others = [user for user in node.users if user not in self._passed and user not in readers]
            if others:
                raise NotFollowed(f"{_named(others[0])} reads its channels as well")

    def _behind(self, node: fx.Node, channels: Channels) -> list[tuple[fx.Node, Channels]]:
        """Operands of a node that may be made by layers, with their channels."""
        operator: Any = packet(node)
        if operator in _EACH:
            self.activated |= operator in ACTIVATIONS
            return list(self._each(node, channels))
        if operator in _ALONG:
            source: Any = node.args[0]
            self.activated |= packet(origin(source)) in ACTIVATIONS
            return [(source, self._constant_along(node, source, channels))]
        if operator in _JOINS:
            return list(self._joined(node, channels))
        raise NotFollowed(f"{_named(node)} lies between")

    def _unmoved(self, node: fx.Node, channels: Channels, passed: set[fx.Node]) -> tuple[fx.Node, Channels]:
        source: Any = node.args[0]
        part = None
        if packet(node) is getitem:
            passed.add(source)
            part, node, source = int(node.args[1]), source, source.args[0]  # type: ignore[arg-type]
            if not moves(node):
                raise NotFollowed(f"{_named(node)} lies between")
        found = self._follower.came(node, source, channels, part, others=True)
        if found is None:
            raise NotFollowed(f"{_named(node)} lays channels over one another")
        return source, found

    def _each(self, node: fx.Node, channels: Channels) -> Iterable[tuple[fx.Node, Channels]]:
        rank = len(channels.shape)
        for operand in (a for a in node.args if isinstance(a, fx.Node) and shape_of(a) is not None and not is_integer(a)):
            shape = self._follower.shape(operand)
            aligned = (1,) * (rank - len(shape)) + shape
            own = [size > 1 and channels.index.shape[axis] > 1 for axis, size in enumerate(aligned)]
            told = [size > 1 for size in channels.index.shape]
            if operand not in self._of_images:
                if any(own):
                    raise NotFollowed(f"{_named(operand)} has a value for each channel")
            elif own != told:
                if any(own):
                    raise NotFollowed(f"{_named(node)} mixes channels")
            else:
                yield operand, Channels(channels.index.reshape(channels.index.shape[rank - len(shape) :]), shape)

    def _constant_along(self, node: fx.Node, source: fx.Node, channels: Channels) -> Channels:
        """Channels of the operand of an operator that mixes values along axes, which may only be of the same channel."""
        shape, given = self._follower.shape(source), node.args[1] if len(node.args) > 1 else None
        if packet(node) in (aten.layer_norm, aten.rms_norm):
            axes = {len(shape) - 1 - i for i in range(len(given))}  # type: ignore[arg-type]
        else:
            place = 2 if packet(node) in (aten.linalg_vector_norm, aten.norm) else 1
            named: Any = node.args[place] if len(node.args) > place else None
            kept = len(node.args) > place + 1 and bool(node.args[place + 1])
            if named is None or not kept:
                raise NotFollowed(f"{_named(node)} mixes channels")
            axes = {int(axis) % len(shape) for axis in (named if isinstance(named, list | tuple) else [named])}
        if len(channels.shape) != len(shape) or any(channels.index.shape[axis] != 1 for axis in axes):
            raise NotFollowed(f"{_named(node)} mixes channels")
        return Channels(channels.index, shape)

    def _joined(self, node: fx.Node, channels: Channels) -> Iterable[tuple[fx.Node, Channels]]:
        parts: Any = node.args[0]
        axis, whole, at = int(node.args[1]) if len(node.args) > 1 else 0, channels.whole(), 0  # type: ignore[arg-type]
        for part in parts:
            if packet(node) is aten.stack:
                found = Channels.of(whole.select(axis, at), others=True)
                at += 1
            else:
                size = self._follower.shape(part)[axis]
                found = Channels.of(whole.narrow(axis, at, size), others=True)
                at += size
            if part in self._of_images:
                yield part, found


def _make(made: dict[str, Tensor], name: str, channels: Channels, axis: int) -> None:
    """Note which channel each output of a layer is, at whatever places."""
    by_place = channels.index.movedim(axis, -1).flatten(0, -2)
    numbers = by_place.amax(0).expand(channels.shape[axis])
    if not bool(((by_place == numbers) | (by_place == NONE)).all()):
        raise NotFollowed(f"{name!r} makes different channels at different places")
    known = made.get(name, torch.full_like(numbers, NONE))
    if bool(((known != NONE) & (numbers != NONE) & (known != numbers)).any()):
        raise NotFollowed(f"an output of {name!r} is read as several channels")
    made[name] = torch.where(known == NONE, numbers, known)


def _of_images(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose values depend on the images."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (not is_integer(node) and any(a in found for a in node.all_input_nodes)):
            found.add(node)
    return found


def _named(node: fx.Node) -> str:
    """What a node is, for people: a module, a parameter, or an operator with the module that it is called in."""
    if node.op in ("call_module", "get_attr"):
        return repr(str(node.target))
    if node.op == "output":
        return "the model's output"
    name = getattr(packet(node), "__name__", str(node.target))
    return f"{name} in {path_of(node)!r}"
