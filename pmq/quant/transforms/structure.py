"""Norms, gains and residual streams of a captured graph that can be rewritten exactly."""

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
    """Layer that reads channels: column ``j`` of its weight multiplies channel ``index[j]``."""

    layer: Layer
    index: Tensor

    def columns(self, per_channel: Tensor) -> Tensor:
        """Return the value of each channel in a shape that broadcasts against the weight."""
        return per_channel[self.index].reshape(1, -1, *[1] * (self.layer.weight.ndim - 2))

    def turn(self, rotation: Tensor) -> None:
        """Change the weight so that the layer's output for ``x @ rotation`` is its previous output for ``x``.

        If the layer reads each channel several times, as of neighbouring positions that are concatenated, each is rotated alone.
        """
        weight = self.layer.weight.double()
        turned = weight.clone()
        for columns in _parts(self.index, len(rotation)):
            block = rotation[self.index[columns]][:, self.index[columns]]
            turned[:, columns] = torch.tensordot(weight[:, columns], block, ([1], [0])).movedim(-1, 1)
        set_(self.layer.weight, turned)


@dataclass(frozen=True)
class Writer:
    """Layer whose output ``o`` is channel ``index[o]``."""

    layer: Layer
    index: Tensor

    def turn(self, rotation: Tensor) -> None:
        """Change the weight and the bias so that the layer returns ``y @ rotation`` instead of ``y``."""
        block = rotation[self.index][:, self.index]
        set_(self.layer.weight, torch.tensordot(block.T, self.layer.weight.double(), 1))
        if self.layer.bias is not None:
            set_(self.layer.bias, self.layer.bias.double() @ block)


@dataclass(frozen=True)
class Norm:
    """Norm and its affine parameters; ``bias`` is None for RMSNorm and for LayerNorm without bias."""

    node: fx.Node
    weight: nn.Parameter
    bias: nn.Parameter | None
    centers: bool

    @property
    def folded(self) -> bool:
        """Return whether the affine is the identity."""
        return bool((self.weight == 1).all()) and (self.bias is None or not bool(self.bias.any()))


@dataclass(frozen=True)
class NormPair:
    """Norm and the layers that read its output, which are its only readers."""

    norm: Norm
    readers: list[Reader]


@dataclass
class ResidualStream:
    """Residual stream of ``width`` channels, with its writers and readers.

    Attributes:
        writers: layers whose output is added to the stream.
        tensors: parameters added to the stream, with the axis of channels and the channel at each index of this axis.
        norms: norms that read the stream; one over ``k * width`` channels reads ``k`` concatenated neighbours.
        readers: layers that read the stream, through these norms or directly.
    """

    width: int
    writers: list[Writer] = field(default_factory=list)
    tensors: list[tuple[nn.Parameter, int, Tensor]] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)


def norm_pairs(model: CapturedModel) -> list[NormPair]:
    """Return the norms over the last axis that only layers read, in the order of the graph."""
    follower, pairs = Follower(model), []
    for node in model.structure.nodes:
        norm = _norm(model, node)
        if norm is None:
            continue
        readers = [
            reader_at(model, *leaf) for leaf in follower.leaves(node, follower.start(node, -1, len(norm.weight)), pools=True)
        ]
        layers = [reader for reader in readers if reader is not None]
        if readers and len(layers) == len(readers):
            pairs.append(NormPair(norm, layers))
    return pairs


def _norm(model: CapturedModel, node: fx.Node) -> Norm | None:
    """Return the norm of a node, or None unless it is over the last axis and no other node uses its parameters."""
    if packet(node) not in NORMS or len(node.args[1]) != 1:  # type: ignore[arg-type]
        return None
    operands = list(node.args[2 : 4 if packet(node) is aten.layer_norm else 3])
    parameters = [parameter_of(model, part) if part is not None else None for part in operands]
    if (
        not parameters
        or parameters[0] is None
        or any(part is not None and parameter is None for part, parameter in zip(operands, parameters, strict=True))
    ):
        return None
    centers = packet(node) is aten.layer_norm
    return Norm(node, parameters[0], parameters[1] if len(parameters) > 1 else None, centers)


def parameter_of(model: CapturedModel, node: Any) -> nn.Parameter | None:
    """Return the parameter of a node, or None unless it is a parameter that a single node reads."""
    if not isinstance(node, fx.Node) or node.op != "get_attr" or len(node.users) != 1:
        return None
    tensor = model.tensor(str(node.target))
    return tensor if isinstance(tensor, nn.Parameter) else None


def reader_at(
    model: CapturedModel, node: fx.Node, source: fx.Node, channels: Channels | None, kernels: bool = False
) -> Reader | None:
    """Return the layer at a node as a reader of channels, or None if it is not one.

    Convolutions are readers only if they are pointwise, unless ``kernels`` allows larger kernels and padding.
    """
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
    """Yield groups of positions that contain each channel once: the first of each channel, the second, and so on."""
    order = index.argsort(stable=True)
    counts = torch.bincount(index, minlength=width)
    assert bool((counts == counts[0]).all()), "the channels are not read equally often"
    yield from order.reshape(width, int(counts[0])).T.sort(dim=1)[0]


def scaled_layers(model: CapturedModel) -> Iterator[tuple[Writer, nn.Parameter, Tensor]]:
    """Yield layers whose output is only multiplied by a parameter per channel, with the parameter and each channel's gain."""
    follower = Follower(model)
    for node in model.structure.nodes:
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
    """Overwrite a parameter with a value that was computed in double precision."""
    parameter.data.copy_(value)


def add_to_bias(layer: Layer, value: Tensor) -> None:
    """Add a value to a layer's bias, which is created if the layer has none."""
    if layer.bias is None:
        layer.bias = nn.Parameter(value.to(layer.weight), requires_grad=False)
    else:
        set_(layer.bias, layer.bias.double() + value)
