"""What the values of a component are like: told by what gives them and by what reads them, as far as the graph shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import fx

from pmq.graph.attention import is_softmax
from pmq.graph.operators import aten, moves, packet
from pmq.graph.taps import Layer

#: kind of a weight by the last part of its module's name
BY_NAME = {"qkv": "qkv", "proj": "proj", "fc1": "fc1", "fc2": "fc2", "reduction": "reduction"}
#: kind of the input of a weight of that kind
OF_INPUT = {"head": "features", "proj": "attention"}
NORMS = (aten.layer_norm, aten.batch_norm, aten.group_norm, aten.instance_norm, aten.rms_norm, aten.native_layer_norm)
GELUS = (aten.gelu,)
ACTIVATIONS = (
    *GELUS,
    *(aten.relu, aten.relu6, aten.silu, aten.hardswish, aten.hardsigmoid, aten.sigmoid, aten.tanh, aten.leaky_relu, aten.elu),
    *(aten.mish, aten.prelu, aten.softplus, aten.hardtanh, aten.glu, aten.clamp, aten.clamp_min),
)
#: what a query or key may pass through on its way to its product: norms, rotations of positions
_TO_ATTENTION = (*NORMS, aten.mul, aten.add, aten.sub, aten.neg, aten.cat, aten.stack, aten.div)


def weight_kind(path: str, layer: Layer, node: fx.Node) -> str:
    """Kind of the weight of a layer called at ``node``."""
    if layer.transposed:
        return "conv_transpose"
    if layer.kind != "linear":
        if layer.groups > 1:
            return "depthwise" if layer.weight.shape[1] == 1 else "conv"
        return "patch_embed" if _embeds_patches(layer) and _origin(node.args[0]).op == "placeholder" else "conv"
    if _is_last(node):
        return "head"
    name = path.rpartition(".")[2].partition(":")[0]
    if name in BY_NAME:
        return BY_NAME[name]
    if _reaches(node, _is_attention, lambda n: moves(n) or packet(n) in _TO_ATTENTION):
        return "qkv"
    if _is_mixed(_origin(node.args[0])):
        return "proj"
    if _reaches(node, lambda n, _: packet(n) in ACTIVATIONS, moves):
        return "fc1"
    return "fc2" if _producer(node.args[0]) in ("gelu", "hidden") else "linear"


def _embeds_patches(layer: Layer) -> bool:
    """Whether a convolution multiplies patches that lie side by side."""
    if layer.kind != "conv2d":
        return False
    stride, padding = layer.sides(0, 1), layer.sides(1, 0)
    return tuple(layer.weight.shape[2:]) == stride and not any(padding)


def input_kind(weight: str, source: Any) -> str:
    """Kind of the input of a layer whose weight is of a kind."""
    return OF_INPUT.get(weight) or _producer(source)


def _producer(node: Any) -> str:
    node = _origin(node)
    if node.op == "placeholder":
        return "image"
    operator = packet(node)
    if operator in NORMS:
        return "norm"
    if operator in GELUS:
        return "gelu"
    if operator in ACTIVATIONS:
        return "hidden"
    if operator is aten.mul and any(packet(_origin(a)) in ACTIVATIONS for a in node.args if isinstance(a, fx.Node)):
        return "hidden"  # a gate, or an activation function that is written out
    return "attention" if _is_mixed(node) else "linear"


def _origin(node: Any) -> Any:
    """What gave the values that a node moves."""
    while moves(node):
        node = node.args[0]
    return node


def _is_mixed(node: fx.Node) -> bool:
    """Whether a node gives values mixed by attention."""
    leaf = str(node.target).rpartition(".")[2].partition(":")[0]
    return node.op == "call_module" and leaf in ("attention", "av")


def _is_attention(node: fx.Node, source: fx.Node) -> bool:
    """Whether a node multiplies what it reads as queries, keys or values."""
    leaf = str(node.target).rpartition(".")[2].partition(":")[0]
    if node.op != "call_module" or leaf not in ("attention", "qk", "av"):
        return False
    return leaf != "av" or not is_softmax(source)


def _is_last(node: fx.Node) -> bool:
    """Whether what a layer gives is what the model gives, moved or averaged at most."""
    readers = list(node.users)
    while readers:
        reader = readers.pop()
        if reader.op == "output":
            continue
        if not moves(reader) and packet(reader) not in (aten.add, aten.div, aten.mul):
            return False
        if any(
            isinstance(a, fx.Node) and a.op != "call_module" and not moves(a) and packet(a) not in (aten.add,)
            for a in reader.args
        ):
            return False
        readers += reader.users
    return True


def _reaches(node: fx.Node, wanted: Callable[[fx.Node, fx.Node], bool], through: Callable[[fx.Node], bool]) -> bool:
    """Whether what a node gives comes to a reader that is ``wanted``, passing only what may be passed ``through``."""
    return any(wanted(reader, source) for reader, source in _readers(node, through))


def _readers(node: fx.Node, through: Callable[[fx.Node], bool]) -> Iterator[tuple[fx.Node, fx.Node]]:
    seen, left = set[fx.Node](), [node]
    while left:
        source = left.pop()
        for reader in source.users:
            yield reader, source
            if reader not in seen and through(reader):
                seen.add(reader)
                left.append(reader)
