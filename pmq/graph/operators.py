"""Classes of torch's operators, such as products and moves of values, and the origins and readers of values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

aten: Any = torch.ops.aten

#: products of an activation and a weight, whose second and third operands are weight and bias
LAYERS = (aten.linear, aten.conv1d, aten.conv2d, aten.conv3d, aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
#: products of two operands of any kind
PRODUCTS = (aten.matmul, aten.bmm, aten.mm)
#: all operators that compute products
MULTIPLIES = (
    *LAYERS,
    *PRODUCTS,
    *(aten.einsum, aten.scaled_dot_product_attention, aten.addmm, aten.baddbmm, aten.addbmm, aten.mv, aten.dot, aten.bilinear),
    *(aten.convolution, aten._convolution, aten.tensordot, aten.inner, aten.vdot, aten.addmv, aten.ger, aten.outer),
    aten.chain_matmul,
)
#: operators that move values without changing them
MOVES = (
    *(aten.view, aten.reshape, aten._unsafe_view, aten.permute, aten.transpose, aten.t, aten.numpy_T, aten.mT, aten.flatten),
    *(aten.unflatten, aten.unsqueeze, aten.squeeze, aten.expand, aten.expand_as, aten.contiguous, aten.clone, aten.unbind),
    *(aten.split, aten.split_with_sizes, aten.chunk, aten.select, aten.slice, aten.movedim, aten.swapaxes, aten.view_as),
    *(aten.reshape_as, aten.narrow, aten.to, aten.type_as, aten._to_copy, aten.roll, aten.flip, aten.tensor_split),
)


def packet(node: Any) -> Any:
    """Return the operator that a node calls, without its overload; None if it calls none."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    return getattr(node.target, "overloadpacket", node.target)


def moves(node: Any) -> bool:
    """Return whether a node moves values of its first operand without changing them."""
    return packet(node) in MOVES or packet(node) is operator.getitem


def origin(node: Any) -> Any:
    """Return the node that computed the values which a node moves; the node itself if it moves none."""
    while moves(node):
        node = node.args[0]
    return node


def readers(node: fx.Node, through: Callable[[fx.Node], bool]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield all readers of ``node``, directly or along nodes for which ``through`` is true, each with the node it reads."""
    seen, left = set[fx.Node](), [node]
    while left:
        source = left.pop()
        for reader in source.users:
            yield reader, source
            if reader not in seen and through(reader):
                seen.add(reader)
                left.append(reader)


def is_integer(node: Any) -> bool:
    """Return whether a node's value is a number, such as the number of images, rather than a tensor."""
    return isinstance(node, fx.Node) and isinstance(
        node.meta.get("val"), int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool
    )


def functional(target: Any) -> Any:
    """Return the out-of-place variant of an operator that writes into its first operand; None for any other operator."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return None
    name = target.overloadpacket.__name__
    if not name.endswith("_"):
        return None
    return getattr(getattr(aten, name[:-1]), target._overloadname)
