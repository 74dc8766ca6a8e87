"""Inventory of a captured model: the components that get a bit-width, and the products of which they are operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from pmq.core.component import Component, Inventory, Operator, Uncovered
from pmq.graph.kinds import input_kind, weight_kind
from pmq.graph.model import CapturedModel
from pmq.graph.nodes import path_of
from pmq.graph.operators import MULTIPLIES, moves, packet
from pmq.graph.taps import Attention, Layer, Product, Tapped, TensorTap
from pmq.graph.tensors import END, tensor_products

#: slots of operands whose components are named after the attention, not after the product
OF_ATTENTION = ("q", "k", "softmax", "v")


@dataclass
class _Seen:
    """Shapes of a module's operands in its largest call for one image, and the multiply-accumulates of all its calls."""

    shapes: dict[str, torch.Size] = field(default_factory=dict)
    macs: dict[str, int] = field(default_factory=dict)

    def add(self, shapes: Mapping[str, torch.Size], macs: Mapping[str, int]) -> None:
        if sum(map(prod, shapes.values())) > sum(map(prod, self.shapes.values())):
            self.shapes = dict(shapes)
        self.macs = {name: self.macs.get(name, 0) + count for name, count in macs.items()}


def take_inventory(model: CapturedModel, image: Tensor) -> Inventory:
    """List the components and products of ``model``, and products outside them, in the order of its graph.

    Args:
        model: captured model.
        image: one image ``(1, C, H, W)`` of the size the model will see.
    """
    seen = _observe(model, image)
    stages = _stages(model)
    graphs = (model.program.graph, model.structure)  # kinds are derived from the graph without taps
    nodes = {str(node.target): node for graph in graphs for node in reversed(graph.nodes) if node.op == "call_module"}
    components: list[Component] = []
    operators: list[Operator] = []
    first: dict[Any, str] = {}
    whole, results = any(isinstance(module, TensorTap) for module in model.tapped.values()), dict[str, str]()
    for path, module in model.tapped.items():
        node = nodes[path]
        for slot, shape, kind, source in _operands(path, module, node, seen[path], whole):
            name = component_of(path, slot)
            heads = shape[-3] if slot in OF_ATTENTION and len(shape) == 4 else 1
            shared = "" if source is None else first.setdefault(source, f"{name}.{slot}")
            same = "" if shared == f"{name}.{slot}" else shared
            components.append(Component(name, slot, kind, stages[path], _flat(slot, shape), heads, same))  # type: ignore[arg-type]
        operators += [] if whole else _products(path, module, seen[path])
    if whole:
        operators, results = tensor_products(model, {path: each.macs[""] for path, each in seen.items() if "" in each.macs})
    weights = {id(module.weight) for module in model.tapped.values() if isinstance(module, Layer)}
    rest = sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in weights)
    uncovered_macs = model.total_macs - sum(operator.macs for operator in operators)
    rest -= sum(4 * component.numel for component in components if component.fixed)
    uncovered = tuple(_uncovered(model, uncovered_macs))
    return Inventory(tuple(components), tuple(operators), rest, uncovered, model.total_macs, results)


def _stages(model: CapturedModel) -> dict[str, int]:
    """Return the number of the stage that calls each module; of a constant's tap, the first one."""
    cuts = model.program.cuts
    stages = {name: number for number, cut in enumerate(cuts) for name in cut.modules}
    for number, cut in enumerate(cuts):
        for node in cut.graph.nodes:
            if node.op == "call_module":
                stages.setdefault(str(node.target), number)
    return stages


def component_of(path: str, slot: str) -> str:
    """Return the name of the module that an operand's component is named after.

    >>> component_of("blocks.0.attn.attention", "q"), component_of("blocks.0.attn.qk:2", "q"), component_of("head", "input")
    ('blocks.0.attn', 'blocks.0.attn:2', 'head')
    """
    if slot == "tensor":
        return path.removesuffix(END)
    if slot not in OF_ATTENTION:
        return path
    owner, _, leaf = path.rpartition(".")
    _, colon, number = leaf.partition(":")
    return f"{owner}{colon}{number}"


def _operands(path: str, module: Tapped, node: fx.Node, seen: _Seen, whole: bool) -> Iterator[tuple[str, torch.Size, str, Any]]:
    """Yield a module's slots with shape, kind, and the node whose value the operand is, where other modules may read it too.

    In a ``whole`` graph, tensors are components where they are computed, not where they are read.
    """
    if isinstance(module, TensorTap):
        yield "tensor", seen.shapes["tensor"], module.kind, None
        return
    if whole and not isinstance(module, Layer):
        return
    if isinstance(module, Layer):
        kind = weight_kind(path, module, node)
        yield "weight", module.weight.shape, kind, None
        if whole:
            return
        yield "input", seen.shapes["input"], input_kind(kind, node.args[0]), _root(node.args[0])
        return
    places = dict(zip(module.slots if isinstance(module, Product) else ("q", "k", "v"), node.args, strict=False))
    for slot in module.slots:
        kind = slot if slot in OF_ATTENTION else "product"
        yield slot, seen.shapes[slot], kind, None if slot in OF_ATTENTION else _root(places[slot])


def _root(node: Any) -> Any:
    """Return the node whose values an operand holds, moved or not; equal numbers of elements show that it holds all of them."""
    while moves(node) and _numel(node) == _numel(node.args[0]):
        node = node.args[0]
    return node


def _numel(node: Any) -> Any:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return str(value.numel()) if isinstance(value, Tensor) else None


def _flat(slot: str, shape: torch.Size) -> tuple[int, ...]:
    """Return the shape of a component, for activations without the batch axis."""
    if slot == "weight":
        return tuple(shape)
    if slot == "softmax":
        return (prod(shape[:-1]), shape[-1])
    if slot in ("q", "k", "v") and len(shape) == 4:
        return (shape[0] * shape[2], shape[1] * shape[3])
    if slot == "input":
        return tuple(shape[1:]) or (1,)
    return (prod(shape[:-1]), shape[-1]) if shape else (1,)


@torch.no_grad()
def _observe(model: CapturedModel, image: Tensor) -> dict[str, _Seen]:
    """Return the operand shapes and multiply-accumulates of each module for an image."""
    seen = {path: _Seen() for path in model.tapped}

    def record(path: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen[path].add(*_measured(module, args, output))  # type: ignore[arg-type]

    handles = [module.register_forward_hook(partial(record, path)) for path, module in model.tapped.items()]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _measured(module: Tapped, args: tuple[Tensor, ...], output: Tensor) -> tuple[dict[str, torch.Size], dict[str, int]]:
    if isinstance(module, Layer):
        return {"input": args[0].shape}, {"": module.macs(args[0], output)}
    if isinstance(module, Attention):
        q, k, v = args[:3]
        softmax = torch.Size((*q.shape[:-1], k.shape[-2]))
        macs = {"q@k": prod(softmax) * q.shape[-1], "attn@v": prod(softmax) * v.shape[-1]}
        return {"q": q.shape, "k": k.shape, "softmax": softmax, "v": v.shape}, macs
    if isinstance(module, TensorTap):
        return {"tensor": args[0].shape}, {}
    assert isinstance(module, Product)
    a, b = args
    return dict(zip(module.slots, (a.shape, b.shape), strict=True)), {"": module.macs(a, b, output)}


def _products(path: str, module: Tapped, seen: _Seen) -> Iterator[Operator]:
    names = {slot: f"{component_of(path, slot)}.{slot}" for slot in module.slots}
    if isinstance(module, Layer):
        yield Operator(path, seen.macs[""], (f"{path}.weight", names["input"]))
    elif isinstance(module, Attention):
        owner = component_of(path, "q")
        yield Operator(f"{owner}.q@k", seen.macs["q@k"], (names["q"], names["k"]))
        yield Operator(f"{owner}.attn@v", seen.macs["attn@v"], (names["softmax"], names["v"]))
    else:
        a, b = module.slots
        owner = component_of(path, a)
        label = {"q": f"{owner}.q@k", "softmax": f"{owner}.attn@v", "v": f"{owner}.v@attn"}.get(a, f"{path}.{a}@{b}")
        yield Operator(label, seen.macs[""], (names[a], names[b]))


def _uncovered(model: CapturedModel, macs: int) -> Iterator[Uncovered]:
    """Yield products that no module computes; the first one carries all uncovered multiply-accumulates ``macs``."""
    products = [node for node in model.program.graph.nodes if packet(node) in MULTIPLIES]
    for node in products:
        name = str(packet(node)).rpartition(".")[2]
        yield Uncovered(path_of(node), f"no rule for {name} of these operands", macs if node is products[0] else 0)
    for path in model.once:
        yield Uncovered(path, "the same for all images: computed once")
    if macs and not products:
        yield Uncovered("", "computed, but the selected output does not depend on it", macs)
