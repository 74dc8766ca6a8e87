"""Transforms that move per-channel scales and shifts between the affine of a norm and the layers that read its output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pmq.graph import CapturedModel
from pmq.quant.transforms.base import Setting, register
from pmq.quant.transforms.statistics import channel_statistics
from pmq.quant.transforms.structure import NormPair, add_to_bias, norm_pairs, scaled_layers, set_

#: ratio of the largest to the median standard deviation of channels up to which they are not scaled
EVEN = 3.0
#: lower limit of a channel's scale, relative to the mean standard deviation, as no scale may become zero
FLOOR = 0.05


@register("fold_norms")
def fold_norms(model: CapturedModel, setting: Setting) -> None:
    """Fold the affine of every norm and the gain of every LayerScale into the adjacent layers, and set them to identity."""
    for writer, gain, gains in scaled_layers(model):
        layer = writer.layer
        set_(layer.weight, layer.weight.double() * gains.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is not None:
            set_(layer.bias, layer.bias.double() * gains)
        nn.init.ones_(gain)
    for pair in norm_pairs(model):
        bias, weight = pair.norm.bias, pair.norm.weight.double()
        _fold_into_readers(pair, torch.zeros_like(weight) if bias is None else bias.double(), weight)
        nn.init.ones_(pair.norm.weight)
        if bias is not None:
            nn.init.zeros_(bias)


@register("scale_channels")
def scale_channels(model: CapturedModel, setting: Setting) -> None:
    """Divide each channel of a norm's output by its standard deviation, so that one scale fits all (RepQ-ViT, 2212.08254)."""
    for pair, (_, std) in _with_statistics(model, setting):
        relative = (std / std.mean().clamp(min=1e-30)).clamp(min=FLOOR)
        if float(relative.max() / relative.median()) > EVEN:
            _divide(pair, torch.zeros_like(relative), relative)


@register("center_channels")
def center_channels(model: CapturedModel, setting: Setting) -> None:
    """Subtract from each channel of a norm's output its mean, which is added to the biases of the layers that read it."""
    for pair, (mean, _) in _with_statistics(model, setting):
        if pair.norm.bias is not None:
            _divide(pair, mean, torch.ones_like(mean))


def _with_statistics(model: CapturedModel, setting: Setting) -> list[tuple[NormPair, tuple[Tensor, Tensor]]]:
    """Return the pairs whose first reader reads each channel once, with mean and standard deviation of the channels."""
    pairs = [pair for pair in norm_pairs(model) if sorted(pair.readers[0].index.tolist()) == list(range(len(pair.norm.weight)))]
    statistics = channel_statistics(model, [pair.readers[0].layer for pair in pairs], setting)
    orders = [pair.readers[0].index.argsort() for pair in pairs]
    return [(pair, (mean[order], std[order])) for pair, order, (mean, std) in zip(pairs, orders, statistics, strict=True)]


def _divide(pair: NormPair, shift: Tensor, scale: Tensor) -> None:
    """Change the output ``x`` of a norm to ``(x - shift) / scale``, and compensate in the layers that read it."""
    if any(reader.layer.bias is None for reader in pair.readers):
        shift = torch.zeros_like(shift)
    _fold_into_readers(pair, shift, scale)
    set_(pair.norm.weight, pair.norm.weight.double() / scale)
    if pair.norm.bias is not None:
        set_(pair.norm.bias, (pair.norm.bias.double() - shift) / scale)


def _fold_into_readers(pair: NormPair, shift: Tensor, scale: Tensor) -> None:
    """Change the readers so that their output for ``x`` is their previous output for ``x * scale + shift``."""
    for reader in pair.readers:
        layer, weight = reader.layer, reader.layer.weight.double()
        set_(layer.weight, weight * reader.columns(scale))
        if bool(shift.any()):
            add_to_bias(layer, weight.flatten(1) @ shift[reader.index])
