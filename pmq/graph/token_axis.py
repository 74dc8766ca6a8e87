"""Shapes of a graph's values after some of its tokens were taken away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from operator import getitem
from typing import Any

from torch import Tensor, fx, nn

from pmq.graph.kinds import ACTIVATIONS
from pmq.graph.nodes import is_fixed, shape_of
from pmq.graph.operators import aten, packet
from pmq.graph.stages import SIZES
from pmq.graph.taps import Attention, Layer

#: operators that compute each value by itself, from one tensor or from tensors of which all but one are constants or equally long
_ELEMENTWISE = (
    *(aten.add, aten.sub, aten.mul, aten.div, aten.neg, aten.clone, aten.contiguous, aten.to, aten._to_copy, aten.type_as),
    *(aten.sigmoid, aten.tanh, aten.exp, aten.pow, aten.rsqrt),
    *ACTIVATIONS,
)
#: operators that divide an axis, and the place of the axis among their arguments
_DIVIDES = {aten.split: 2, aten.split_with_sizes: 2, aten.chunk: 2, aten.slice: 1}
_NORMS = (aten.layer_norm, aten.native_layer_norm, aten.rms_norm)


class Unfollowed(Exception):
    """Raised where an operator does more with tokens than computing each by itself or attending to all."""


@dataclass(frozen=True)
class Fewer:
    """A number of tokens that becomes smaller: ``count`` of ``total`` are taken away, none of the ``prefix`` at the front."""

    total: int
    count: int
    prefix: int


def follow_tokens(graph: fx.Graph, axes: Mapping[fx.Node, int], fewer: Fewer, modules: Mapping[str, nn.Module]) -> list[fx.Node]:
    """Give all values that depend on values with fewer tokens their new shapes, in place.

    Args:
        graph: the graph.
        axes: axis of the tokens of the values that already have fewer.
        fewer: the numbers of tokens.
        modules: modules that the graph calls, by name.

    Returns:
        The attentions that read them.

    Raises:
        Unfollowed: the tokens of a value cannot be told, or an operator reads them in another way.
    """
    follower = _Follower(fewer, modules, dict(axes))
    for node in graph.nodes:
        if node.op != "output" and node not in axes and any(source in follower.axis for source in node.all_input_nodes):
            follower.visit(node)
    return follower.attentions


class _Follower:
    def __init__(self, fewer: Fewer, modules: Mapping[str, nn.Module], axis: dict[fx.Node, int]) -> None:
        self._fewer, self._modules = fewer, modules
        #: axis of the tokens by node, of those that have any
        self.axis = axis
        self.attentions: list[fx.Node] = []

    def visit(self, node: fx.Node) -> None:
        """Find the axis of the tokens of a node's value, and shorten it."""
        operator, shape = packet(node), shape_of(node)
        args: Any = node.args
        source: Any = next(source for source in node.all_input_nodes if source in self.axis)
        axis, before = self.axis[source], _rank(source)
        if node.op == "call_module":
            self._module(node, axis, before)
        elif operator in _NORMS and before - len(node.args[1]) > axis:  # type: ignore[arg-type]
            self._shorten(node, axis)
        elif operator in _ELEMENTWISE and shape is not None:
            self._elementwise(node, len(shape))
        elif operator is aten.reshape and shape is not None:
            self._reshape(node, source, axis, shape)
        elif operator is aten.permute:
            self._shorten(node, [a % before for a in args[1]].index(axis))
        elif operator in (aten.transpose, aten.swapaxes):
            one, other = (a % before for a in args[1:3])
            self._shorten(node, {one: other, other: one}.get(axis, axis))
        elif operator in (aten.unbind, aten.select):
            self._select(node, axis, before)
        elif operator is getitem or (operator in _DIVIDES and _dim(node, _DIVIDES[operator]) % before != axis):
            self._shorten(node, axis)
        else:
            raise Unfollowed(f"{node.target} at {node.name!r} reads tokens in a way that depends on their number")

    def _module(self, node: fx.Node, axis: int, before: int) -> None:
        module = self._modules[str(node.target)]
        if isinstance(module, Layer) and module.kind == "linear" and axis < before - 1:
            self._shorten(node, axis)
        elif isinstance(module, Attention):
            operands, (mask, *_) = node.args[:3], (*node.args[3:], None)
            axes = [self.axis.get(operand) for operand in operands]  # type: ignore[arg-type]
            if before != 4 or module.causal or axes not in ([2, 2, 2], [2, None, None]):
                raise Unfollowed(f"attention {node.target!r} is not one over all tokens of an image")
            if isinstance(mask, fx.Node) and SIZES not in mask.meta:
                raise Unfollowed(f"attention {node.target!r} has a mask, or a bias of positions")
            self.attentions.append(node)
            self._shorten(node, 2)
        else:
            raise Unfollowed(f"{node.target!r} is no linear layer and no attention over all tokens")

    def _elementwise(self, node: fx.Node, rank: int) -> None:
        from_behind = {self.axis[n] - _rank(n) for n in node.all_input_nodes if n in self.axis}
        others = [shape_of(n) for n in node.all_input_nodes if n not in self.axis]
        if len(from_behind) > 1 or any(s and len(s) >= -min(from_behind) and s[min(from_behind)] != 1 for s in others):
            raise Unfollowed(f"{node.target} at {node.name!r} adds values of other tokens, such as embeddings of positions")
        self._shorten(node, rank + min(from_behind))

    def _reshape(self, node: fx.Node, source: fx.Node, axis: int, shape: tuple[Any, ...]) -> None:
        old = list(shape_of(source) or ())
        old[axis] = self._fewer.total
        leading = _product(old[:axis])
        new = next((a for a, size in enumerate(shape) if size == self._fewer.total and _product(shape[:a]) == leading), None)
        if new is None:
            raise Unfollowed(f"{node.target} at {node.name!r} divides tokens, such as into windows")
        sizes: list[Any] = list(node.args[1])  # type: ignore[arg-type]
        sizes[new] = sizes[new] if sizes[new] == -1 else self._fewer.total - self._fewer.count
        node.args = (node.args[0], sizes)
        self._shorten(node, new)

    def _select(self, node: fx.Node, axis: int, before: int) -> None:
        dim = _dim(node, 1) % before
        if dim != axis:
            self._shorten(node, axis - (dim < axis))
        elif packet(node) is aten.unbind or not 0 <= int(node.args[2]) < self._fewer.prefix:  # type: ignore[arg-type]
            raise Unfollowed(f"{node.target} at {node.name!r} selects single patches")

    def _shorten(self, node: fx.Node, axis: int) -> None:
        self.axis[node] = axis
        node.meta["val"] = fx.node.map_aggregate(node.meta["val"], lambda value: self._shortened(value, axis))

    def _shortened(self, value: Any, axis: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.shape[axis] != self._fewer.total:
            raise Unfollowed("its tokens cannot be followed")
        return value.narrow(axis, 0, self._fewer.total - self._fewer.count)


def _product(sizes: Any) -> str:
    """Return a product of sizes, some of which are symbols."""
    return f"{prod(s for s in sizes if is_fixed(s))} {sorted(str(s) for s in sizes if not is_fixed(s))}"


def _rank(node: fx.Node) -> int:
    value = node.meta["val"]
    return int((value if isinstance(value, Tensor) else value[0]).ndim)


def _dim(node: fx.Node, place: int) -> int:
    """Return the axis that an operator divides, 0 by default."""
    return int(node.args[place]) if len(node.args) > place else 0  # type: ignore[arg-type]
