"""Per-channel scale and shift at the outputs of norms, moved between the norm's affine and the layers that read it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pmq.graph import CapturedModel
from pmq.quant.transforms.base import Setting, register
from pmq.quant.transforms.statistics import channel_statistics
from pmq.quant.transforms.structure import NormPair, add_to_bias, norm_pairs, scaled_layers, set_

#: channels whose spread differs by less than this factor are even enough
EVEN = 3.0
#: part of the mean spread below which a channel is taken as constant: no scale may become zero
FLOOR = 0.05


@register("fold_norms")
def fold_norms(model: CapturedModel, setting: Setting) -> None:
    """Give every norm the affine ``1, 0`` and every LayerScale the gain 1; the layers beside them take it over."""
    for writer, gain, gains in scaled_layers(model):
        layer = writer.layer
        set_(layer.weight, layer.weight.double() * gains.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is not None:
            set_(layer.bias, layer.bias.double() * gains)
        nn.init.ones_(gain)
    for pair in norm_pairs(model):
        bias, weight = pair.norm.bias, pair.norm.weight.double()
        _readers_take(pair, torch.zeros_like(weight) if bias is None else bias.double(), weight)
        nn.init.ones_(pair.norm.weight)
        if bias is not None:
            nn.init.zeros_(bias)


@register("scale_channels")
def scale_channels(model: CapturedModel, setting: Setting) -> None:
    """Divide each channel of a norm's output by its spread, so that one scale serves all (RepQ-ViT, 2212.08254)."""
    for pair, (_, spread) in _with_statistics(model, setting):
        relative = (spread / spread.mean().clamp(min=1e-30)).clamp(min=FLOOR)
        if float(relative.max() / relative.median()) > EVEN:
            _divide(pair, torch.zeros_like(relative), relative)


@register("center_channels")
def center_channels(model: CapturedModel, setting: Setting) -> None:
    """Subtract from each channel of a norm's output its mean, which the readers' biases add again."""
    for pair, (mean, _) in _with_statistics(model, setting):
        if pair.norm.bias is not None:
            _divide(pair, mean, torch.ones_like(mean))


def _with_statistics(model: CapturedModel, setting: Setting) -> list[tuple[NormPair, tuple[Tensor, Tensor]]]:
    """Pairs whose first reader reads each channel once, with mean and spread of the channels there."""
    pairs = [pair for pair in norm_pairs(model) if sorted(pair.readers[0].index.tolist()) == list(range(len(pair.norm.weight)))]
    statistics = channel_statistics(model, [pair.readers[0].layer for pair in pairs], setting)
    places = [pair.readers[0].index.argsort() for pair in pairs]
    return [(pair, (mean[at], spread[at])) for pair, at, (mean, spread) in zip(pairs, places, statistics, strict=True)]


def _divide(pair: NormPair, shift: Tensor, scale: Tensor) -> None:
    """Make the norm give ``(x - shift) / scale``."""
    if any(reader.layer.bias is None for reader in pair.readers):
        shift = torch.zeros_like(shift)
    _readers_take(pair, shift, scale)
    set_(pair.norm.weight, pair.norm.weight.double() / scale)
    if pair.norm.bias is not None:
        set_(pair.norm.bias, (pair.norm.bias.double() - shift) / scale)


def _readers_take(pair: NormPair, shift: Tensor, scale: Tensor) -> None:
    """Make the readers compute of ``x`` what they did of ``x * scale + shift``."""
    for reader in pair.readers:
        layer, weight = reader.layer, reader.layer.weight.double()
        set_(layer.weight, weight * reader.columns(scale))
        if bool(shift.any()):
            add_to_bias(layer, weight.flatten(1) @ shift[reader.index])
