"""Per-channel scale and shift at LayerNorm outputs, moved between the norm's affine and the Linears that read it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pmq.quant.transforms.base import Setting, register
from pmq.quant.transforms.statistics import channel_statistics
from pmq.quant.transforms.structure import NormPair, norm_pairs, scaled_writers, set_

#: channels whose spread differs by less than this factor are even enough
EVEN = 3.0
#: part of the mean spread below which a channel is taken as constant: no scale may become zero
FLOOR = 0.05


@register("fold_norms")
def fold_norms(model: nn.Module, setting: Setting) -> None:
    """Give every LayerNorm the affine ``1, 0`` and every LayerScale the gain 1; the Linears beside them take it over."""
    for gain, linear in scaled_writers(model):
        set_(linear.weight, linear.weight.double() * gain.double()[:, None])
        if linear.bias is not None:
            set_(linear.bias, linear.bias.double() * gain.double())
        nn.init.ones_(gain)
    for pair in norm_pairs(model):
        _readers_take(pair, pair.norm.bias.double(), pair.norm.weight.double())
        nn.init.ones_(pair.norm.weight)
        nn.init.zeros_(pair.norm.bias)


@register("scale_channels")
def scale_channels(model: nn.Module, setting: Setting) -> None:
    """Divide each channel of a norm's output by its spread, so that one scale serves all (RepQ-ViT, 2212.08254)."""
    pairs = norm_pairs(model)
    for pair, (_, spread) in zip(pairs, channel_statistics(model, [p.readers[0] for p in pairs], setting), strict=True):
        relative = (spread / spread.mean().clamp(min=1e-30)).clamp(min=FLOOR)
        if float(relative.max() / relative.median()) > EVEN:
            _divide(pair, torch.zeros_like(relative), relative)


@register("center_channels")
def center_channels(model: nn.Module, setting: Setting) -> None:
    """Subtract from each channel of a norm's output its mean, which the readers' biases add again."""
    pairs = norm_pairs(model)
    for pair, (mean, _) in zip(pairs, channel_statistics(model, [p.readers[0] for p in pairs], setting), strict=True):
        _divide(pair, mean, torch.ones_like(mean))


def _divide(pair: NormPair, shift: Tensor, scale: Tensor) -> None:
    """Make the norm give ``(x - shift) / scale``."""
    if any(reader.bias is None for reader in pair.readers):
        shift = torch.zeros_like(shift)
    _readers_take(pair, shift, scale)
    set_(pair.norm.weight, pair.norm.weight.double() / scale)
    set_(pair.norm.bias, (pair.norm.bias.double() - shift) / scale)


def _readers_take(pair: NormPair, shift: Tensor, scale: Tensor) -> None:
    """Make the readers compute of ``x`` what they did of ``x * scale + shift``."""
    for reader in pair.readers:
        weight = reader.weight.double()
        set_(reader.weight, weight * scale)
        if reader.bias is None:
            if bool(shift.any()):
                reader.bias = nn.Parameter((weight @ shift).to(reader.weight), requires_grad=False)
        else:
            set_(reader.bias, reader.bias.double() + weight @ shift)
