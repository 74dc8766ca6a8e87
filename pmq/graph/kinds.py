"""Kinds of components, which describe their values: derived from the nodes that compute and read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from pmq.graph.attention import is_softmax
from pmq.graph.operators import aten, moves, origin, packet, readers
from pmq.graph.taps import SLOTS, Layer

#: kinds of weights by the last part of the module's name
BY_NAME = {"qkv": "qkv", "proj": "proj", "fc1": "fc1", "fc2": "fc2", "reduction": "reduction"}
#: kinds of layer inputs by the kind of the layer's weight
OF_INPUT = {"head": "features", "proj": "attention"}
NORMS = (aten.layer_norm, aten.batch_norm, aten.group_norm, aten.instance_norm, aten.rms_norm, aten.native_layer_norm)
GELUS = (aten.gelu,)
ACTIVATIONS = (
    *GELUS,
    *(aten.relu, aten.relu6, aten.silu, aten.hardswish, aten.hardsigmoid, aten.sigmoid, aten.tanh, aten.leaky_relu, aten.elu),
    *(aten.mish, aten.prelu, aten.softplus, aten.hardtanh, aten.glu, aten.clamp, aten.clamp_min),
)
#: operators allowed between a layer and the product of queries and keys: norms, rotary position embeddings
_TO_ATTENTION = (*NORMS, aten.mul, aten.add, aten.sub, aten.neg, aten.cat, aten.stack, aten.div)


def weight_kind(path: str, layer: Layer, node: fx.Node) -> str:
    """Return the kind of the weight of a layer called at ``node``."""
    if layer.transposed:
        return "conv_transpose"
    if layer.kind != "linear":
        if layer.groups > 1:
            return "depthwise" if layer.weight.shape[1] == 1 else "conv"
        return "patch_embed" if _embeds_patches(layer) and origin(node.args[0]).op == "placeholder" else "conv"
    if _is_last(node):
        return "head"
    name = path.rpartition(".")[2].partition(":")[0]
    if name in BY_NAME:
        return BY_NAME[name]
    if _reaches(node, _is_attention, lambda n: moves(n) or packet(n) in _TO_ATTENTION):
        return "qkv"
    if _is_mixed(origin(node.args[0])):
        return "proj"
    if _reaches(node, lambda n, _: packet(n) in ACTIVATIONS, moves):
        return "fc1"
    return "fc2" if _producer(node.args[0]) in ("gelu", "hidden") else "linear"


def _embeds_patches(layer: Layer) -> bool:
    """Return whether a convolution embeds adjacent, non-overlapping patches."""
    if layer.kind != "conv2d":
        return False
    stride, padding = layer.sides(0, 1), layer.sides(1, 0)
    return tuple(layer.weight.shape[2:]) == stride and not any(padding)


def input_kind(weight: str, source: Any) -> str:
    """Return the kind of a layer's input, from the kind of its weight and the node that the layer reads."""
    return OF_INPUT.get(weight) or _producer(source)


def _producer(node: Any) -> str:
    node = origin(node)
    if node.op == "placeholder":
        return "image"
    operator = packet(node)
    if operator in NORMS:
        return "norm"
    if operator in GELUS:
        return "gelu"
    if operator in ACTIVATIONS:
        return "hidden"
    if operator is aten.mul and any(packet(origin(a)) in ACTIVATIONS for a in node.args if isinstance(a, fx.Node)):
        return "hidden"  # a gate, or an activation function written out as a product
    return "attention" if _is_mixed(node) else "linear"


def _is_mixed(node: fx.Node) -> bool:
    """Return whether a node's values are mixed by attention."""
    return "v" in node.meta.get(SLOTS, ())


def _is_attention(node: fx.Node, source: fx.Node) -> bool:
    """Return whether a node reads ``source`` as queries, keys or values."""
    slots = node.meta.get(SLOTS, ())
    return "q" in slots or ("v" in slots and not is_softmax(source))


def _is_last(node: fx.Node) -> bool:
    """Return whether a layer's output is the model's output, possibly moved or averaged."""
    return all(reader.op == "output" or _averages(reader) for reader, _ in readers(node, _averages))


def _averages(node: fx.Node) -> bool:
    """Return whether a node moves values, or adds and scales outputs of layers."""
    if not moves(node) and packet(node) not in (aten.add, aten.div, aten.mul):
        return False
    terms = [a for a in node.args if isinstance(a, fx.Node)]
    return all(a.op == "call_module" or moves(a) or packet(a) is aten.add for a in terms)


def _reaches(node: fx.Node, matches: Callable[[fx.Node, fx.Node], bool], through: Callable[[fx.Node], bool]) -> bool:
    """Return whether a node's value reaches a reader that ``matches``, along nodes for which ``through`` is true."""
    return any(matches(reader, source) for reader, source in readers(node, through))
