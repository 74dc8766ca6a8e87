"""Lowering of a graph: all products become modules, namely layers, products of two activations, and attentions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pmq.graph.attention import is_softmax, reaches_softmax
from pmq.graph.constants import Constants
from pmq.graph.nodes import batch_axis, drop_unread, path_of, shape_of
from pmq.graph.operators import LAYERS, PRODUCTS, aten, packet
from pmq.graph.taps import SLOTS, Attention, Layer, Product, Tapped


def lower(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> dict[str, Tapped]:
    """Replace nodes that multiply by calls of modules, in place, and return these modules by name.

    A layer is named after the module whose weight it multiplies by: ``blocks.0.mlp.fc1`` for ``blocks.0.mlp.fc1.weight``.
    Products of activations are named below the module that computes them: ``attention`` for a fused attention function,
    ``qk`` and ``av`` for an attention that is written out, ``product`` for any other. The second and third of the same name
    get the suffixes ``:2`` and ``:3``.
    """
    lowering = _Lowering(graph, tensors)
    for node in list(graph.nodes):
        lowering.visit(node)
    drop_unread(graph)
    return lowering.modules


class _Lowering:
    def __init__(self, graph: fx.Graph, tensors: Mapping[str, Tensor]) -> None:
        self.graph, self.constants = graph, Constants(graph, tensors)
        self.modules: dict[str, Tapped] = {}
        self._layers: dict[tuple[Any, ...], str] = {}
        self._reserved = {path for name in tensors for path in _paths(name)}

    def visit(self, node: fx.Node) -> None:
        operator, fixed = packet(node), self.constants.holds
        if operator is None or fixed(node):
            return
        args: tuple[Any, ...] = node.args
        if operator in LAYERS and fixed(args[1]) and (len(args) < 3 or args[2] is None or fixed(args[2])) and not node.kwargs:
            bias = args[2] if len(args) > 2 else None
            self._layer(node, node.target, args[0], args[1], bias, args[3:])  # type: ignore[arg-type]
        elif operator is aten.addmm and fixed(args[0]) and fixed(args[2]) and not node.kwargs:
            self._linear(node, args[1], args[2], args[0])
        elif operator in PRODUCTS and fixed(args[1]) and len(shape_of(args[1]) or ()) == 2:
            self._linear(node, args[0], args[1], None)
        elif operator is aten.scaled_dot_product_attention:
            self._attention(node)
        elif operator in PRODUCTS:
            self._product(node, args[0], args[1], node.target)  # type: ignore[arg-type]
        elif operator is aten.einsum and len(args[1]) == 2:
            self._product(node, args[1][0], args[1][1], Einsum(args[0]))
        elif operator is aten.baddbmm:
            self._sum_of_product(node)

    def _linear(self, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None) -> None:
        """Lower a product with a matrix stored as ``(I, O)``."""
        with self.graph.inserting_before(node):
            transposed = self.graph.call_function(aten.t.default, (weight,))
        self._layer(node, aten.linear.default, x, transposed, bias, ())

    def _layer(
        self,
        node: fx.Node,
        operator: Callable[..., Tensor],
        x: fx.Node,
        weight: fx.Node,
        bias: fx.Node | None,
        settings: tuple[Any, ...],
    ) -> None:
        places = _origin(weight), None if bias is None else _origin(bias)
        key = (operator, *places, repr(settings))
        if key not in self._layers:
            sources = self.constants.sources(weight)
            named = next((source for source in sources if source.endswith("weight")), sources[0])
            name = self._name(_module_of(named), layer=True)
            bias_value = None if bias is None else self._parameter(bias)
            self.modules[name] = Layer(operator, self._parameter(weight), bias_value, settings)
            self._layers[key] = name
        self._call(node, self._layers[key], (x,))

    def _parameter(self, node: fx.Node) -> Tensor:
        """Return a constant: a parameter of the model itself, or a copy of a value computed from parameters."""
        value: Tensor = self.constants.value(node)
        return value if isinstance(value, nn.Parameter) else value.detach().clone().contiguous()

    def _attention(self, node: fx.Node) -> None:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
        arguments: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
        mask = arguments.get("attn_mask")
        name = self._name(_below(path_of(node), "attention"))
        scale, causal, grouped = (arguments.get(key) for key in ("scale", "is_causal", "enable_gqa"))
        self.modules[name] = Attention(scale, bool(causal), bool(grouped))
        operands = tuple(arguments[key] for key in ("query", "key", "value"))
        self._call(node, name, (*operands, *([] if mask is None else [mask])))

    def _product(self, node: fx.Node, a: fx.Node, b: fx.Node, operator: Callable[[Tensor, Tensor], Tensor]) -> None:
        slots, leaf = _roles(node, a, b)
        name = self._name(_below(path_of(node), leaf))
        scale, factor = 1.0, _factor(a)
        if factor is not None:
            scale, a = factor, a.args[0]  # type: ignore[assignment]
        transposed = _is_transposed(b) and packet(node) in PRODUCTS
        if transposed:
            b = b.args[0]  # type: ignore[assignment]
        self.modules[name] = Product(operator, slots, transposed, scale)
        self._call(node, name, (a, b))

    def _sum_of_product(self, node: fx.Node) -> None:
        """Lower ``beta * c + alpha * (a @ b)``."""
        c, a, b = node.args
        beta, alpha = (float(node.kwargs.get(key, 1)) for key in ("beta", "alpha"))  # type: ignore[arg-type]
        with self.graph.inserting_before(node):
            product = self.graph.call_function(aten.bmm.default, (a, b))
            scaled = product if alpha == 1 else self.graph.call_function(aten.mul.Tensor, (product, alpha))
            added = c if beta == 1 else self.graph.call_function(aten.mul.Tensor, (c, beta))
            total = self.graph.call_function(aten.add.Tensor, (scaled, added)) if beta else scaled
        for new in (product, scaled, total):
            new.meta = dict(node.meta)
        node.replace_all_uses_with(total)
        self.graph.erase_node(node)
        self._product(product, a, b, product.target)  # type: ignore[arg-type]

    def _name(self, preferred: str, layer: bool = False) -> str:
        """Return an unused name: the preferred one, or that with a number behind."""
        name, count = preferred, 1
        while name in self.modules or (not layer and name in self._reserved):
            count += 1
            name = f"{preferred}:{count}"
        return name

    def _call(self, node: fx.Node, name: str, args: tuple[Any, ...]) -> None:
        with self.graph.inserting_before(node):
            new = self.graph.call_module(name, args)
        module = self.modules[name]
        new.meta = {**node.meta, SLOTS: module.slots}
        for slot, operand in (*zip(_operand_slots(module), args, strict=False), ("output", node)):
            axis = batch_axis(operand)
            if axis:
                module.axes[slot] = axis
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)


def _operand_slots(module: Tapped) -> tuple[str, ...]:
    """Return the slots of a module's arguments, in order."""
    return ("q", "k", "v") if isinstance(module, Attention) else module.slots


class Einsum:
    """Callable that applies ``torch.einsum`` with a fixed equation to two operands."""

    def __init__(self, equation: str) -> None:
        self.equation = equation

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the product of ``a`` and ``b`` by the equation."""
        return torch.einsum(self.equation, a, b)


def _paths(name: str) -> list[str]:
    """Return a tensor's name and the names of all modules that contain it.

    >>> _paths("blocks.0.weight")
    ['blocks', 'blocks.0', 'blocks.0.weight']
    """
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _below(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else leaf


def _roles(node: fx.Node, a: fx.Node, b: fx.Node) -> tuple[tuple[str, str], str]:
    """Return the slots of a product's operands, and the last part of its name."""
    if is_softmax(a):
        return ("softmax", "v"), "av"
    if is_softmax(b):
        return ("v", "softmax"), "av"
    if reaches_softmax(node):
        return ("q", "k"), "qk"
    return ("left", "right"), "product"


def _origin(node: fx.Node) -> Any:
    """Return a key that identifies a constant: its name, or the node that computes it."""
    return node.target if node.op == "get_attr" else node


def _module_of(tensor: str) -> str:
    """Return the name of a weight's layer: ``attn.qkv`` for ``attn.qkv.weight``, ``attn.proj`` for ``attn.proj_weight``."""
    for end in (".weight", "_weight"):
        if tensor.endswith(end) and len(tensor) > len(end):
            return tensor.removesuffix(end)
    return "weight" if tensor == "weight" else tensor


def _factor(node: fx.Node) -> float | None:
    """Return the number that an operand was last multiplied by, if the scaled value has no other reader; else None."""
    if packet(node) in (aten.mul, aten.div) and len(node.users) == 1 and isinstance(node.args[1], int | float):
        number = float(node.args[1])
        return number if packet(node) is aten.mul else 1 / number
    return None


def _is_transposed(node: fx.Node) -> bool:
    """Return whether an operand is a transpose of the last two axes that has no other reader."""
    rank = len(shape_of(node) or ())
    if len(node.users) != 1 or rank < 2:
        return False
    if packet(node) is aten.transpose:
        return {int(axis) % rank for axis in node.args[1:3]} == {rank - 2, rank - 1}  # type: ignore[arg-type]
    if packet(node) is aten.permute:
        return [int(axis) % rank for axis in node.args[1]] == [*range(rank - 2), rank - 1, rank - 2]  # type: ignore[union-attr,arg-type]
    return packet(node) in (aten.mT, aten.t)
