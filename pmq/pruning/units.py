"""Prunable units: channels between layers that no other node reads, found in the captured graph of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, fx, nn

from pmq.core.progress import message
from pmq.core.pruning import Kind, PrunedUnit
from pmq.graph import Attention, CapturedModel, Layer, Product, captured, component_of
from pmq.graph.attention import scores_of
from pmq.graph.channels import NONE, Channels, Follower, layer_at
from pmq.graph.fingerprint import ModuleCache, fingerprint
from pmq.graph.heads import mixed_at
from pmq.graph.makers import Makers, NotFollowed
from pmq.models.describe import input_size

_NUMBER = re.compile(r"\d+")
#: layer of a ViT that its residual stream begins at
EMBEDDING = "patch_embed.proj"


@dataclass(frozen=True, eq=False)
class Unit:
    """Channels that can be pruned together.

    Attributes:
        name: name of the MLP, of the attention, or of the layer that begins the residual stream.
        kind: see :class:`pmq.core.pruning.PrunedUnit`.
        size: number of channels; for an attention, of all heads together.
        heads: number of heads that the channels divide into.
        whole_heads_only: whether only whole heads may be removed.
        makers: layers whose outputs are the channels -> the channel of each output ``(O,)``, or -1.
        last: the layer whose inputs the channels are.
        operands: of an attention whose heads may get narrower, the layers that compute q, k and v, each with the indices of
            its outputs ``(heads, width)``.
        products: operators without weights whose cost shrinks with the channels.
        owner: the module that contains all of these layers.
    """

    name: str
    kind: Kind
    size: int
    heads: int = 1
    whole_heads_only: bool = False
    makers: Mapping[str, Tensor] = field(default_factory=dict)
    last: str = ""
    operands: tuple[tuple[str, Tensor], ...] = ()
    products: tuple[str, ...] = ()
    owner: str = ""

    @property
    def can_mix(self) -> bool:
        """Whether the channels of each head may be rotated without changing the output: in attentions without norms of q or k."""
        return self.kind == "attention" and not self.whole_heads_only

    def keeping(self, channels: Iterable[int]) -> PrunedUnit:
        """Return the unit with only these channels kept."""
        layers = () if self.kind == "embedding" else (*self.makers, self.last)
        return PrunedUnit.of(self.kind, self.size, channels, self.heads, layers=layers, products=self.products)


@dataclass(frozen=True)
class Units:
    """Prunable units of a model, in the order of its graph.

    Attributes:
        units: the prunable units.
        refused: name of a layer or an attention that cannot be pruned -> the reason.
    """

    units: list[Unit]
    refused: dict[str, str]

    def report_refused(self) -> None:
        """Print one line for each reason why something is not pruned."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.refused.items():
            by_reason.setdefault(_NUMBER.sub("#", reason), []).append(name)
        for names in by_reason.values():
            similar = f" and {len(names) - 1} more like it" if len(names) > 1 else ""
            message(f"not pruned: {names[0]!r}{similar}: {self.refused[names[0]]}")


_KNOWN = ModuleCache[Units]()


def find_units(model: nn.Module) -> Units:
    """Find the prunable MLPs and attentions in the graph of ``model``.

    An MLP ends in a linear layer whose inputs come from other linear layers through elementwise operators, with or without a
    gate, among them an activation function. An attention whose queries or keys are changed on the way (by norms or rotary
    embeddings) can only lose whole heads.
    """
    image = example(model)
    key = fingerprint(model, image)
    return _KNOWN.get(key) or _KNOWN.put(key, _units(model, image))


def _units(model: nn.Module, image: Tensor) -> Units:
    """Find the units of a model whose graph is captured with ``image``."""
    graph = captured(model, image)
    order = list(graph.tapped)
    names = {id(module): name for name, module in graph.tapped.items()}
    units, refused, used_names = list[Unit](), dict[str, str](), set[str]()
    for node in graph.program.graph.nodes:
        try:
            unit = _unit(graph, node, names)
        except NotFollowed as reason:
            refused[str(node.target)] = str(reason)
            continue
        if unit is None:
            continue
        nonlinear = next((name for name in (*unit.makers, unit.last) if not _is_linear(model, name)), None)
        if nonlinear is not None:
            refused[unit.name] = f"{nonlinear!r} is no torch.nn.Linear, so its weight cannot be cut"
        else:
            name = unit.owner if unit.owner and unit.owner not in used_names else unit.last
            used_names.add(name)
            makers = {maker: unit.makers[maker] for maker in sorted(unit.makers, key=order.index)}
            units.append(replace(unit, name=name, makers=makers))
    return Units(units, refused)


def _unit(graph: CapturedModel, node: fx.Node, names: Mapping[int, str]) -> Unit | None:
    """Return the unit whose last node is ``node``, or None if no unit ends there."""
    module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, Attention) or (isinstance(module, Product) and module.slots == ("softmax", "v")):
        return _attention(graph, node, names)
    return _mlp(graph, node) if isinstance(module, Layer) and module.kind == "linear" else None


def _mlp(graph: CapturedModel, node: fx.Node) -> Unit | None:
    """Return the MLP that ends in a layer, or None where no activation function precedes the layer."""
    layer, last = layer_at(graph, node), str(node.target)
    if layer is None:
        return None
    source: Any = node.args[0]
    walk, size = Makers(graph), layer.weight.shape[1]
    try:
        walk.follow(source, Follower(graph).start(source, -1, size))
        walk.check_read_by(node)
    except NotFollowed:
        if walk.activated:
            raise
        return None
    if not walk.activated:
        return None
    owner = _around([*walk.channels, last])
    return Unit(last, "hidden", size, makers=walk.channels, last=last, owner=owner)


def _attention(graph: CapturedModel, node: fx.Node, names: Mapping[int, str]) -> Unit:
    """Return the unit of an attention, or of the second product of one.

    Raises:
        NotFollowed: its channels cannot be followed to linear layers.
    """
    module: Any = graph.get_submodule(str(node.target))
    follower, scores = Follower(graph), node
    if isinstance(module, Product):
        product = scores_of(node.args[0])  # type: ignore[arg-type]
        if product is None:
            raise NotFollowed("its product of queries and keys was not found")
        scores, first = product, graph.get_submodule(str(product.target))
    else:
        first = module
    mixed = mixed_at(graph, follower, node)
    if mixed is None:
        raise NotFollowed("its output is not read by exactly one linear layer")
    if getattr(module, "grouped", False):
        raise NotFollowed("several heads share keys and values")
    heads, width = mixed.columns.shape
    if not bool((mixed.columns.reshape(-1) == torch.arange(heads * width)).all()):
        raise NotFollowed("the layer behind it reads its heads in another order")
    places = {"q": scores.args[0], "k": scores.args[1], "v": node.args[2 if isinstance(module, Attention) else 1]}
    if any(len(follower.shape(at)) < 3 or follower.shape(at)[-3] != heads for at in places.values()):  # type: ignore[arg-type]
        raise NotFollowed("its heads are not one axis")
    upright = isinstance(first, Product) and not first.transposed
    walk, operands = Makers(graph), []
    for slot, at in places.items():
        operand = _operand(walk, follower, at, -2 if slot == "k" and upright else -1, heads, width)
        operands += [] if operand is None else [operand]
        if operand is None:
            _by_head(walk, follower, slot, at, width)
    walk.check_read_by(scores, node)
    last = names[id(mixed.layer)]
    whole_heads_only = len(operands) < len(places)
    return Unit(
        str(node.target),
        "attention",
        heads * width,
        heads,
        whole_heads_only,
        walk.channels,
        last,
        () if whole_heads_only else tuple(operands),
        (f"{component_of(str(scores.target), 'q')}.q@k", f"{component_of(str(node.target), 'v')}.attn@v"),
        _around([*walk.channels, last]),
    )


def _operand(walk: Makers, follower: Follower, at: Any, axis: int, heads: int, width: int) -> tuple[str, Tensor] | None:
    """Return the layer that computes an operand's channels, and its outputs ``(heads, width)``; None if not only moved."""
    shape = follower.shape(at)
    sizes = [1] * len(shape)
    sizes[-3], sizes[axis] = heads, width
    if shape[axis] != width:
        return None
    before = {name: numbers.clone() for name, numbers in walk.channels.items()}
    try:
        names = walk.follow(at, Channels(torch.arange(heads * width).reshape(sizes), shape), moved=True)
    except NotFollowed:
        return None
    if len(names) != 1:
        return None
    (name,) = names
    numbers = walk.channels[name]
    new = numbers != before.get(name, torch.full_like(numbers, NONE))
    (places,) = new.nonzero(as_tuple=True)
    return name, places[numbers[places].argsort()].reshape(heads, width)


def _by_head(walk: Makers, follower: Follower, slot: str, at: Any, width: int) -> None:
    """Add the layers that compute an operand, with all their outputs numbered as the first channel of their head."""
    shape = follower.shape(at)
    sizes = [1] * len(shape)
    sizes[-3] = shape[-3]
    try:
        walk.follow(at, Channels((torch.arange(shape[-3]) * width).reshape(sizes), shape))
    except NotFollowed as reason:
        raise NotFollowed(f"{slot}: {reason}") from None


def _around(names: Iterable[str]) -> str:
    """Return the innermost module that contains all named ones.

    >>> _around(["blocks.0.attn.qkv", "blocks.0.attn.proj"])
    'blocks.0.attn'
    """
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels))


def _is_linear(model: nn.Module, name: str) -> bool:
    return isinstance(dict(model.named_modules()).get(name), nn.Linear)


def stream_of(model: nn.Module) -> Unit | None:
    """Return the residual stream of a ViT whose patches one layer embeds, or None for other models."""
    from timm.models.vision_transformer import VisionTransformer

    first = dict(model.named_modules()).get(EMBEDDING)
    if not isinstance(model, VisionTransformer) or not isinstance(first, nn.Conv2d | nn.Linear):
        return None
    return Unit(EMBEDDING, "embedding", first.weight.shape[0])


def units_of(model: nn.Module) -> Iterator[Unit]:
    """Yield all units that a plan may name."""
    yield from find_units(model).units
    if (stream := stream_of(model)) is not None:
        yield stream


def example(model: nn.Module) -> Tensor:
    """Return a random image ``(1, C, H, W)`` for ``model``."""
    image = torch.randn(1, *input_size(model), generator=torch.Generator().manual_seed(0))
    return image.to(next(model.parameters()).device)
