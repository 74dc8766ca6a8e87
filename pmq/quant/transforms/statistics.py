"""Streamed mean and standard deviation of channels on the calibration images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pmq.graph import CapturedModel, Layer
from pmq.quant.transforms.base import Setting


@torch.no_grad()
def channel_statistics(
    model: CapturedModel, layers: list[Layer], setting: Setting, of_output: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Return mean and standard deviation of the channels of each layer's inputs (or outputs): pairs of ``(C,)``, double."""
    sums: dict[nn.Module, list[Any]] = {layer: [0, 0.0, 0.0] for layer in layers}

    def hook(layer: Any, args: tuple[Tensor], output: Tensor) -> None:
        x = output if of_output else args[0]
        x = (x if layer.kind == "linear" else x.movedim(1, -1)).flatten(0, -2).double()
        entry = sums[layer]
        entry[0] += len(x)
        entry[1] = entry[1] + x.sum(0)
        entry[2] = entry[2] + x.square().sum(0)

    handles = [layer.register_forward_hook(hook) for layer in sums]
    try:
        for batch in setting.batches(next(model.parameters()).device):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    result = []
    for layer in layers:
        count, total, squares = sums[layer]
        mean = total / count
        result.append((mean, (squares / count - mean.square()).clamp(min=0).sqrt()))
    return result
