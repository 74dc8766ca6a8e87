"""Where norms, gains, residual streams and attentions are in a captured graph, as far as they may be rewritten exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from pmq.graph import CapturedModel, Layer
from pmq.graph.channels import Channels, Follower, channel_axis, layer_at
from pmq.graph.operators import aten, packet

NORMS = (aten.layer_norm, aten.rms_norm)


@dataclass(frozen=True)
class Reader:
    """A layer that reads channels: column ``j`` of its weight multiplies channel ``index[j]``."""

    layer: Layer
    index: Tensor

    def columns(self, per_channel: Tensor) -> Tensor:
        """Lay a value of each channel out so that it multiplies the weight."""
        return per_channel[self.index].reshape(1, -1, *[1] * (self.layer.weight.ndim - 2))

    def turn(self, rotation: Tensor) -> None:
        """Make the layer compute of ``x @ rotation`` what it did of ``x``; neighbours side by side turn each by itself."""
        weight = self.layer.weight.double()
        turned = weight.clone()
        for columns in _parts(self.index, len(rotation)):
            block = rotation[self.index[columns]][:, self.index[columns]]
            turned[:, columns] = torch.tensordot(weight[:, columns], block, ([1], [0])).movedim(-1, 1)
        set_(self.layer.weight, turned)


@dataclass(frozen=True)
class Writer:
    """A layer whose output ``o`` is channel ``index[o]``."""

    layer: Layer
    index: Tensor

    def turn(self, rotation: Tensor) -> None:
        """Make the layer give ``y @ rotation`` in place of ``y``."""
        block = rotation[self.index][:, self.index]
        set_(self.layer.weight, torch.tensordot(block.T, self.layer.weight.double(), 1))
        if self.layer.bias is not None:
            set_(self.layer.bias, self.layer.bias.double() @ block)


@dataclass(frozen=True)
class Norm:
    """A norm's affine parameters; ``bias`` is none of an RMSNorm's, or of a LayerNorm without."""

    node: fx.Node
    weight: nn.Parameter
    bias: nn.Parameter | None
    centers: bool

    @property
    def folded(self) -> bool:
        """Whether its affine does nothing."""
        return bool((self.weight == 1).all()) and (self.bias is None or not bool(self.bias.any()))


@dataclass(frozen=True)
class NormPair:
    """A norm and the layers that read its output, and nobody else does."""

    norm: Norm
    readers: list[Reader]


@dataclass
class ResidualStream:
    """What writes a residual stream of ``width`` channels, and what reads it.

    Attributes:
        writers: layers whose output is added to the stream.
        tensors: parameters added to it, with the axis of channels and the channel at each place of it.
        norms: that read it; one over ``k * width`` channels reads ``k`` neighbours side by side.
        readers: layers that read it, through these norms or directly.
    """

    width: int
    writers: list[Writer] = field(default_factory=list)
    tensors: list[tuple[nn.Parameter, int, Tensor]] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)


def norm_pairs(model: CapturedModel) -> list[NormPair]:
    """All norms over the last axis whose readers are layers alone, in the order of the graph."""
    follower, pairs = Follower(model), []
    for node in model.program.graph.nodes:
        norm = _norm(model, node)
        if norm is None:
            continue
        readers = [
            reader_at(model, *leaf) for leaf in follower.leaves(node, follower.start(node, -1, len(norm.weight)), pools=True)
        ]
        known = [reader for reader in readers if reader is not None]
        if readers and len(known) == len(readers):
            pairs.append(NormPair(norm, known))
    return pairs


def _norm(model: CapturedModel, node: fx.Node) -> Norm | None:
    """The affine parameters of a norm over the last axis, which no other node uses."""
    if packet(node) not in NORMS or len(node.args[1]) != 1:  # type: ignore[arg-type]
        return None
    operands = list(node.args[2 : 4 if packet(node) is aten.layer_norm else 3])
    named = [parameter_of(model, part) if part is not None else None for part in operands]
    if (
        not named
        or named[0] is None
        or any(part is not None and name is None for part, name in zip(operands, named, strict=True))
    ):
        return None
    centers = packet(node) is aten.layer_norm
    return Norm(node, named[0], named[1] if len(named) > 1 else None, centers)


def parameter_of(model: CapturedModel, node: Any) -> nn.Parameter | None:
    """The parameter that a node names, if it names one that no other node reads."""
    if not isinstance(node, fx.Node) or node.op != "get_attr" or len(node.users) != 1:
        return None
    tensor = model.tensor(str(node.target))
    return tensor if isinstance(tensor, nn.Parameter) else None


def reader_at(
    model: CapturedModel, node: fx.Node, source: fx.Node, channels: Channels | None, kernels: bool = False
) -> Reader | None:
    """The layer that reads channels at a node; of convolutions such of single positions, unless ``kernels`` may be larger."""
    layer = layer_at(model, node)
    if layer is None or channels is None or (channels.padded and not kernels):
        return None
    if layer.kind != "linear" and not kernels and not _is_pointwise(layer):
        return None
    index = channels.along(channel_axis(layer))
    return None if index is None or len(index) != layer.weight.shape[1] else Reader(layer, index)


def _is_pointwise(layer: Layer) -> bool:
    return all(side == 1 for side in layer.weight.shape[2:]) and not any(layer.sides(1, 0))


def _parts(index: Tensor, width: int) -> Iterator[Tensor]:
    """Positions in groups that have each channel once, the first of each channel, the second, and so on."""
    order = index.argsort(stable=True)
    counts = torch.bincount(index, minlength=width)
    assert bool((counts == counts[0]).all()), "some channel is read less often than others"
    yield from order.reshape(width, int(counts[0])).T.sort(dim=1)[0]


def scaled_layers(model: CapturedModel) -> Iterator[tuple[Writer, nn.Parameter, Tensor]]:
    """Layers whose output is multiplied by a parameter, channel by channel, for nobody else to read; and its gain of each."""
    follower = Follower(model)
    for node in model.program.graph.nodes:
        layer = layer_at(model, node)
        if layer is None:
            continue
        leaves = list(follower.leaves(node, follower.start(node, channel_axis(layer), layer.outputs)))
        if len(leaves) != 1 or packet(leaves[0][0]) is not aten.mul:
            continue
        product, source, channels = leaves[0]
        if channels is None:
            continue
        gain = next((parameter_of(model, a) for a in product.args if a is not source), None)
        if gain is None or channels.padded:
            continue
        by_value, shape = channels.expanded().reshape(-1), follower.shape(product)
        if shape != channels.shape:
            continue
        gains = torch.zeros(layer.outputs, dtype=torch.float64, device=gain.device)
        spread = gain.detach().double().expand(shape).reshape(-1)
        gains[by_value.to(gain.device)] = spread
        if bool((gains[by_value.to(gain.device)] == spread).all()):
            yield Writer(layer, torch.arange(layer.outputs)), gain, gains


def set_(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter with what was computed in double precision."""
    parameter.data.copy_(value)


def add_to_bias(layer: Layer, value: Tensor) -> None:
    """Add to a layer's bias, which it may not have had."""
    if layer.bias is None:
        layer.bias = nn.Parameter(value.to(layer.weight), requires_grad=False)
    else:
        set_(layer.bias, layer.bias.double() + value)
