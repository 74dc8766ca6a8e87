"""Whole graphs: a tap at every tensor that an operator computes, for targets in which every tensor has a fixed grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx

from pmq.core.component import Operator
from pmq.core.errors import PmqError
from pmq.graph.expand import expanded
from pmq.graph.kinds import GELUS, NORMS
from pmq.graph.model import CapturedModel
from pmq.graph.nodes import batch_axis, copied, path_of
from pmq.graph.operators import aten, is_integer, moves, packet
from pmq.graph.taps import KIND, SLOTS, Layer, Product, Tapped, TensorTap

#: end of the path of a tap; its component is named with a dot instead
END = ":tensor"
#: operators that join tensors, all of which have the grid of the result
JOINS = (aten.cat, aten.concat, aten.stack)
#: operators with padding of zeros, which every grid contains
PADS = (aten.pad, aten.constant_pad_nd)
#: operators that select values, and so keep their grid
SELECTS = (aten.max_pool2d, aten.amax)
SOFTMAX = (aten.softmax, aten._softmax)
#: operators that integer graphs have, beside products, layers and moves
COMPUTES = (
    *(aten.add, aten.sub, aten.mul, aten.div, aten.neg, aten.gelu, aten.relu, aten.sigmoid, aten.tanh, aten.hardswish),
    *(aten.hardsigmoid, aten.layer_norm, aten.sqrt, aten.mean, aten.avg_pool2d, aten.adaptive_avg_pool2d, *SOFTMAX),
)


def with_tensors(model: CapturedModel, norms: bool = False) -> CapturedModel:
    """Return a model that computes the same with a tap at every tensor between operators; it shares the parameters.

    Attention is written out, and so are layer norms with ``norms``. A tensor that is moved, or multiplied by a positive number,
    keeps its grid, so only the operator that computed it has a tap; tensors that are joined have one at the result. Constants
    that operators read have taps, too, except the biases of layers and norms, which are integers of 32 bits.

    Raises:
        PmqError: an operator has no form in integers; the message names it.
    """
    graph = copied(model.program.graph)
    modules = expanded(graph, model, norms)
    tensors = {str(n.target): model.tensor(str(n.target)) for n in model.structure.nodes if n.op == "get_attr"}
    modules |= _Taps(graph).insert()
    return CapturedModel(graph, modules, tensors, model.total_macs, model.once).structured_as(model)


class _Taps:
    """Insertion of taps into a graph, in place."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self._depends = set[fx.Node]()
        for node in graph.nodes:
            # a layer or a product of constants is computed for each image, too
            if node.op in ("placeholder", "call_module") or any(source in self._depends for source in _tensors_read(node)):
                self._depends.add(node)
        self._taps: dict[str, Tapped] = {}

    def insert(self) -> dict[str, Tapped]:
        """Insert all taps, and return them by path."""
        for node in list(self.graph.nodes):
            if node.op == "output" or not _is_floating(node):
                continue
            if node not in self._depends:
                self._constant(node)
            elif not self._keeps_grid(node) and not self._is_joined(node):
                _check(node)
                self._tap(node, name_of(node), kind_of(node), list(node.users))
        return self._taps

    def _keeps_grid(self, node: fx.Node) -> bool:
        """Return whether a node's values lie on the grid of the tensor it reads."""
        if moves(node) or rescales(node):
            return True
        if packet(node) in SELECTS:
            return True
        if packet(node) in PADS:
            return len(node.args) < 4 or not node.args[3]
        if packet(node) not in JOINS:
            return False
        parts: Any = node.args[0]
        sources = {_gridded(part) for part in parts}
        return len(sources) == 1 and None not in sources

    def _is_joined(self, node: fx.Node) -> bool:
        """Return whether only a join, whose result has a tap, reads a tensor."""
        readers = list(node.users)
        while len(readers) == 1 and moves(readers[0]):
            node = readers[0]
            readers = list(node.users)
        return len(readers) == 1 and packet(readers[0]) in JOINS and not self._keeps_grid(readers[0])

    def _constant(self, node: fx.Node) -> None:
        """Insert a tap at a constant for each operator that reads it, except as the bias of a norm or a part of a join."""
        for reader in list(node.users):
            if reader not in self._depends or reader.op == "output" or packet(reader) in JOINS or _is_bias(reader, node):
                continue
            while moves(reader):
                raise PmqError(f"{describe(reader)} moves a constant together with images, which has no form in integers")
            kind = "scale" if packet(reader) is aten.layer_norm else "constant"
            name = str(node.target) if node.op == "get_attr" else f"{path_of(node)}.constant".lstrip(".")
            self._tap(node, name, kind, [reader])

    def _tap(self, node: fx.Node, name: str, kind: str, readers: list[fx.Node]) -> None:
        path, count = name + END, 1
        while path in self._taps:
            count += 1
            path = f"{name}:{count}{END}"
        module = TensorTap(kind)
        axis = batch_axis(node)
        if axis:
            module.axes["tensor"] = axis
        place = self.graph.inserting_after(node) if node in self._depends else self.graph.inserting_before(readers[0])
        with place:
            new = self.graph.call_module(path, (node,))
        new.meta = {**node.meta, SLOTS: module.slots}
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user in readers)
        self._taps[path] = module


def _tensors_read(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the tensors that a node reads; the number of images is none."""
    for source in node.all_input_nodes:
        if not is_integer(source):
            yield source


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_bias(reader: fx.Node, node: fx.Node) -> bool:
    return packet(reader) is aten.layer_norm and len(reader.args) > 3 and reader.args[3] is node


def rescales(node: fx.Node) -> bool:
    """Return whether a node multiplies a tensor by a positive number, which changes the scale of its grid alone."""
    if packet(node) not in (aten.mul, aten.div) or len(node.args) < 2:
        return False
    number = node.args[1]
    return isinstance(number, int | float) and number > 0


def tap_of(node: Any) -> Any:
    """Return the tap whose grid the values of a node lie on; None for values that no tap quantizes."""
    while isinstance(node, fx.Node) and not str(node.target).endswith(END):
        if packet(node) in JOINS:
            node = node.args[0][0]  # type: ignore[index]
        elif moves(node) or rescales(node) or packet(node) in (*PADS, *SELECTS):
            node = node.args[0]
        else:
            return None
    return node


def _gridded(part: Any) -> Any:
    """Return the tap of a part of a join; a part that was rescaled has another grid, and so none in common."""
    node = part
    while isinstance(node, fx.Node) and (moves(node) or packet(node) in (*PADS, *SELECTS)):
        node = node.args[0]
    return node if isinstance(node, fx.Node) and str(node.target).endswith(END) else None


def result_of(node: fx.Node) -> Any:
    """Return the first tap behind an operator: of its result, or of the join that the result is a part of."""
    while not str(node.target).endswith(END):
        readers = list(node.users)
        if not readers or readers[0].op == "output":
            return None
        node = readers[0]
    return node


def name_of(node: fx.Node) -> str:
    """Return the name of the tensor that a node computes: that of the layer, product or norm, or of module and operator."""
    if node.op == "placeholder":
        return "image"
    if node.op == "call_module":
        return str(node.target)
    path, operator = path_of(node), str(packet(node).__name__).strip("_")
    if packet(node) in (*NORMS, *GELUS):
        return path or operator
    return f"{path}.{operator}".lstrip(".")


def kind_of(node: fx.Node) -> str:
    """Return what the values of a tensor are like."""
    operator = packet(node)
    if KIND in node.meta:
        return str(node.meta[KIND])
    if node.op == "placeholder":
        return "image"
    if node.op == "call_module":
        slots = node.meta.get(SLOTS, ())
        return {("q", "k"): "logits", ("input",): "linear"}.get(slots, "attention" if "v" in slots else "product")
    if operator in NORMS:
        return "norm"
    if operator in SOFTMAX:
        return "softmax"
    if operator in GELUS:
        return "gelu"
    return "sum" if operator in (aten.add, aten.sub) else "hidden"


def describe(node: fx.Node) -> str:
    """Return an operator and its module for messages."""
    return f"operator {packet(node).__name__ if packet(node) else node.target!s} of {path_of(node) or 'the model itself'!r}"


def _check(node: fx.Node) -> None:
    if node.op == "call_function" and packet(node) not in (*COMPUTES, *JOINS):
        raise PmqError(f"{describe(node)} has no form in integers; choose another target, or another model")


def tensor_products(model: CapturedModel, macs: dict[str, int]) -> tuple[list[Operator], dict[str, str]]:
    """Return the products of a whole graph, with taps as operands, and the tensor that each of them computes."""
    products, results = list[Operator](), dict[str, str]()
    for node in model.program.graph.nodes:
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, Layer | Product) or str(node.target) in results:
            continue
        path = str(node.target)
        sources = [component_name(tap_of(a)) for a in node.args]
        operands = (f"{path}.weight", sources[0]) if isinstance(module, Layer) else (sources[0], sources[1])
        products.append(Operator(path, macs[path], operands))
        results[path] = component_name(result_of(node))
    return products, results


def component_name(tap: Any) -> str:
    """Return the name of a tap's component."""
    return str(tap.target).removesuffix(END) + ".tensor"
