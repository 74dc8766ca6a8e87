"""What of a model can be removed: channels that live between layers, and nobody else reads; found in its captured graph."""

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
#: the layer that a ViT's residual stream begins at
EMBEDDING = "patch_embed.proj"


@dataclass(frozen=True, eq=False)
class Unit:
    """Channels of which any may be removed.

    Attributes:
        name: of the MLP, of the attention, or of the layer that begins the residual stream.
        kind: see :class:`pmq.core.pruning.PrunedUnit`.
        size: channels; of an attention those of all heads.
        heads: that they divide into.
        whole: heads may be removed as a whole only.
        makers: layers whose outputs are the channels: the channel of each output ``(O,)``, or -1.
        last: the layer whose inputs they are.
        operands: of an attention whose heads are not whole the layers that make q, k and v, and which of their outputs these
            are ``(heads, width)``.
        products: operators that are no layers and take less where less is kept.
        owner: the module around all of that.
    """

    name: str
    kind: Kind
    size: int
    heads: int = 1
    whole: bool = False
    makers: Mapping[str, Tensor] = field(default_factory=dict)
    last: str = ""
    operands: tuple[tuple[str, Tensor], ...] = ()
    products: tuple[str, ...] = ()
    owner: str = ""

    @property
    def can_mix(self) -> bool:
        """Whether the channels of its heads may be mixed, which leaves an attention without norms as it is."""
        return self.kind == "attention" and not self.whole

    def keeping(self, channels: Iterable[int]) -> PrunedUnit:
        """The unit with these channels left."""
        layers = () if self.kind == "embedding" else (*self.makers, self.last)
        return PrunedUnit.of(self.kind, self.size, channels, self.heads, layers=layers, products=self.products)


@dataclass(frozen=True)
class Units:
    """What can be removed, in the order of the graph; and of what else cannot, why: by the name of a layer or an attention."""

    found: list[Unit]
    refused: dict[str, str]

    def say(self) -> None:
        """Tell in a line for each reason what is not pruned."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.refused.items():
            by_reason.setdefault(_NUMBER.sub("#", reason), []).append(name)
        for names in by_reason.values():
            others = f" and {len(names) - 1} more like it" if len(names) > 1 else ""
            message(f"not pruned: {names[0]!r}{others}: {self.refused[names[0]]}")


_KNOWN = ModuleCache[Units]()


def find_units(model: nn.Module) -> Units:
    """Find MLPs and attentions in the graph of ``model``.

    An MLP ends in a linear layer, whose inputs come from others by an activation function at least, gates or not, each
    channel by itself. Of an attention whose queries and keys are more than moved, heads may be removed as a whole only.
    """
    image = example(model)
    key = fingerprint(model, image)
    return _KNOWN.get(key) or _KNOWN.put(key, _found(model, image))


def _found(model: nn.Module, image: Tensor) -> Units:
    graph = captured(model, image)
    order = list(graph.tapped)
    names = {id(module): name for name, module in graph.tapped.items()}
    found, refused, taken = list[Unit](), dict[str, str](), set[str]()
    for node in graph.program.graph.nodes:
        try:
            unit = _unit(graph, node, names)
        except NotFollowed as reason:
            refused[str(node.target)] = str(reason)
            continue
        if unit is None:
            continue
        broken = next((name for name in (*unit.makers, unit.last) if not _is_linear(model, name)), None)
        if broken is not None:
            refused[unit.name] = f"{broken!r} is no torch.nn.Linear, whose weight could be cut"
        else:
            name = unit.owner if unit.owner and unit.owner not in taken else unit.last
            taken.add(name)
            makers = {maker: unit.makers[maker] for maker in sorted(unit.makers, key=order.index)}
            found.append(replace(unit, name=name, makers=makers))
    return Units(found, refused)


def _unit(graph: CapturedModel, node: fx.Node, names: Mapping[int, str]) -> Unit | None:
    module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, Attention) or (isinstance(module, Product) and module.slots == ("softmax", "v")):
        return _attention(graph, node, names)
    return _mlp(graph, node) if isinstance(module, Layer) and module.kind == "linear" else None


def _mlp(graph: CapturedModel, node: fx.Node) -> Unit | None:
    """The MLP that ends in a layer; nothing where no activation function lies before it."""
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
    owner = _around([*walk.found, last])
    return Unit(last, "hidden", size, makers=walk.found, last=last, owner=owner)


def _attention(graph: CapturedModel, node: fx.Node, names: Mapping[int, str]) -> Unit:
    module: Any = graph.get_submodule(str(node.target))
    follower, scores = Follower(graph), node
    if isinstance(module, Product):
        product = scores_of(node.args[0])  # type: ignore[arg-type]
        if product is None:
            raise NotFollowed("the product of queries and keys is not known")
        scores, first = product, graph.get_submodule(str(product.target))
    else:
        first = module
    mixed = mixed_at(graph, follower, node)
    if mixed is None:
        raise NotFollowed("no linear layer alone reads what it gives")
    if getattr(module, "grouped", False):
        raise NotFollowed("several heads share keys and values")
    heads, width = mixed.columns.shape
    if not bool((mixed.columns.reshape(-1) == torch.arange(heads * width)).all()):
        raise NotFollowed("the layer behind reads its heads in another order")
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
    whole = len(operands) < len(places)
    return Unit(
        str(node.target),
        "attention",
        heads * width,
        heads,
        whole,
        walk.found,
        last,
        () if whole else tuple(operands),
        (f"{component_of(str(scores.target), 'q')}.q@k", f"{component_of(str(node.target), 'v')}.attn@v"),
        _around([*walk.found, last]),
    )


def _operand(walk: Makers, follower: Follower, at: Any, axis: int, heads: int, width: int) -> tuple[str, Tensor] | None:
    """The layer that makes an operand's channels, if these are moved at most on the way, and which of its outputs are which."""
    shape = follower.shape(at)
    sizes = [1] * len(shape)
    sizes[-3], sizes[axis] = heads, width
    if shape[axis] != width:
        return None
    before = {name: numbers.clone() for name, numbers in walk.found.items()}
    try:
        names = walk.follow(at, Channels(torch.arange(heads * width).reshape(sizes), shape), moved=True)
    except NotFollowed:
        return None
    if len(names) != 1:
        return None
    (name,) = names
    numbers = walk.found[name]
    new = numbers != before.get(name, torch.full_like(numbers, NONE))
    (places,) = new.nonzero(as_tuple=True)
    return name, places[numbers[places].argsort()].reshape(heads, width)


def _by_head(walk: Makers, follower: Follower, slot: str, at: Any, width: int) -> None:
    """Add the layers that make an operand, whose outputs are all called as the first channel of their head."""
    shape = follower.shape(at)
    sizes = [1] * len(shape)
    sizes[-3] = shape[-3]
    try:
        walk.follow(at, Channels((torch.arange(shape[-3]) * width).reshape(sizes), shape))
    except NotFollowed as reason:
        raise NotFollowed(f"{slot}: {reason}") from None


def _around(names: Iterable[str]) -> str:
    """The module that all named ones lie in.

    >>> _around(["blocks.0.attn.qkv", "blocks.0.attn.proj"])
    'blocks.0.attn'
    """
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels))


def _is_linear(model: nn.Module, name: str) -> bool:
    return isinstance(dict(model.named_modules()).get(name), nn.Linear)


def stream_of(model: nn.Module) -> Unit | None:
    """The residual stream of a ViT whose patches one layer embeds."""
    from timm.models.vision_transformer import VisionTransformer

    first = dict(model.named_modules()).get(EMBEDDING)
    if not isinstance(model, VisionTransformer) or not isinstance(first, nn.Conv2d | nn.Linear):  # of some it is none
        return None
    return Unit(EMBEDDING, "embedding", first.weight.shape[0])


def units_of(model: nn.Module) -> Iterator[Unit]:
    """All that a plan may name."""
    yield from find_units(model).found
    if (stream := stream_of(model)) is not None:
        yield stream


def example(model: nn.Module) -> Tensor:
    """An image ``(1, C, H, W)`` of chance for ``model``."""
    image = torch.randn(1, *input_size(model), generator=torch.Generator().manual_seed(0))
    return image.to(next(model.parameters()).device)
