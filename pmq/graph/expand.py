"""Expansion of a graph's compound operators into such that compute one tensor each: attention, gates, and norms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from pmq.core.errors import PmqError
from pmq.graph.lower import Einsum
from pmq.graph.model import CapturedModel
from pmq.graph.nodes import batch_axis, drop_unread
from pmq.graph.operators import aten, packet
from pmq.graph.taps import KIND, SLOTS, Attention, Product, Tapped


def expanded(graph: fx.Graph, model: CapturedModel, norms: bool = False) -> dict[str, Tapped]:
    """Write attentions, scaled products and gated activations out, in place; return all modules of the graph by name.

    With ``norms``, layer norms are written out as well.

    The attentions of ``model`` are among them, as its structure still calls them.

    Raises:
        PmqError: an attention is causal, has a mask of booleans, or heads that share keys; or a product is a general ``einsum``.
    """
    expansion = _Expansion(graph, {name: model.get_submodule(name) for name in model.program.calls}, norms)  # type: ignore[misc]
    for node in list(graph.nodes):
        expansion.visit(node)
    drop_unread(graph)
    return expansion.modules


class _Expansion:
    def __init__(self, graph: fx.Graph, modules: dict[str, Tapped], norms: bool) -> None:
        self.graph, self.modules, self.norms = graph, modules, norms

    def visit(self, node: fx.Node) -> None:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Attention):
            self._attention(node, module)
        elif isinstance(module, Product):
            self._product(node, module)
        elif packet(node) is aten.layer_norm and self.norms:
            self._norm(node)
        elif packet(node) is aten.silu:
            with self.graph.inserting_before(node):
                gate = self._function(node, aten.sigmoid.default, node.args[0])
                self._replace(node, self._function(node, aten.mul.Tensor, node.args[0], gate))
        elif packet(node) is aten.glu:
            raise PmqError("operator glu has no form in integers; choose another target, or another model")

    def _attention(self, node: fx.Node, module: Attention) -> None:
        q, k, v, *masks = node.args
        mask: Any = masks[0] if masks else None
        name = str(node.target)
        reason = "is causal" if module.causal else "has heads that share keys" if module.grouped else ""
        if mask is not None and not mask.meta["val"].is_floating_point():
            reason = "has a mask of booleans"
        if reason:
            raise PmqError(f"attention {name!r} {reason}, which has no form in integers; choose another target, or another model")
        assert isinstance(q, fx.Node)
        scale = 1 / math.sqrt(int(q.meta["val"].shape[-1])) if module.scale is None else module.scale
        owner = name.rpartition(".")[0]
        with self.graph.inserting_before(node):
            scaled = q if scale == 1 else self._function(node, aten.mul.Tensor, q, scale)
            scores = self._multiply(node, f"{owner}.qk".lstrip("."), ("q", "k"), scaled, k, True)
            scores = scores if mask is None else self._function(node, aten.add.Tensor, scores, mask)
            weights = self._function(node, aten.softmax.int, scores, -1)
            self._replace(node, self._multiply(node, f"{owner}.av".lstrip("."), ("softmax", "v"), weights, v, False))

    def _norm(self, node: fx.Node) -> None:
        """Write a layer norm out: the centered values, divided by the root of their mean square."""
        x, sides, gain, bias, epsilon = (*node.args, *(None, None, None, 1e-5)[len(node.args) - 1 :])[:5]
        epsilon = node.kwargs.get("eps", epsilon)
        axes = [-i - 1 for i in range(len(sides))]  # type: ignore[arg-type]
        with self.graph.inserting_before(node):
            mean = self._function(node, aten.mean.dim, x, axes, True)
            centered = self._function(node, aten.sub.Tensor, x, mean)
            square = self._function(node, aten.mul.Tensor, centered, centered)
            variance = self._function(node, aten.mean.dim, square, axes, True)
            variance = self._function(node, aten.add.Tensor, variance, epsilon)
            deviation = self._function(node, aten.sqrt.default, variance)
            for inner in (mean, centered, square, deviation, variance.args[0], variance):
                inner.meta[KIND] = "moment"  # type: ignore[union-attr]
            new = self._function(node, aten.div.Tensor, centered, deviation)
            new = new if gain is None else self._function(node, aten.mul.Tensor, new, gain)
            new = new if bias is None else self._function(node, aten.add.Tensor, new, bias)
            new.meta[KIND] = "norm"
            self._replace(node, new)

    def _product(self, node: fx.Node, module: Product) -> None:
        """Write the factor of a product out."""
        if isinstance(module.operator, Einsum):
            raise PmqError(f"einsum {str(node.target)!r} has no form in integers; choose another target, or another model")
        a, b = module.slots
        self.modules[str(node.target)] = Product(module.operator, (a, b), module.transposed)
        if module.scale != 1:
            with self.graph.inserting_before(node):
                node.update_arg(0, self._function(node, aten.mul.Tensor, node.args[0], module.scale))

    def _multiply(self, like: fx.Node, name: str, slots: tuple[str, str], a: Any, b: Any, transposed: bool) -> fx.Node:
        unused, count = name, 1
        while unused in self.modules:
            count += 1
            unused = f"{name}:{count}"
        module = Product(torch.matmul, slots, transposed)
        self.modules[unused] = module
        new = self.graph.call_module(unused, (a, b))
        left, right = a.meta["val"], b.meta["val"]
        new.meta = {**like.meta, "val": torch.matmul(left, right.mT if transposed else right), SLOTS: slots}
        for slot, operand in zip((*slots, "output"), (a, b, new), strict=True):
            if batch_axis(operand):
                module.axes[slot] = batch_axis(operand)
        return new

    def _function(self, like: fx.Node, operator: Callable[..., Tensor], *args: Any) -> fx.Node:
        new = self.graph.call_function(operator, args)
        values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
        new.meta = {key: value for key, value in like.meta.items() if key != SLOTS} | {"val": operator(*values)}
        return new

    def _replace(self, node: fx.Node, new: fx.Node) -> None:
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
