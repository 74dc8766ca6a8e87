"""Losses without labels, and what their gradients say of how much each row of a layer's output matters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.progress import track
from pmq.core.task import CLASSIFICATION, Task
from pmq.models.outputs import drawn, joined, likelihood, to_logits, to_unit

BATCH = 8
#: part of the weight that every row has, however little the output depends on it: gradients of few images are noisy
EVEN = 0.1
RowWeights = dict[str, Tensor]  # layer -> (N, T)


def own_labels(output: Tensor, task: Task) -> Tensor:
    """Cross-entropy ``(B,)`` with what the model itself says; half the square of features, which say nothing."""
    if task.decides:
        logits = to_logits(output, task)
        return -joined(torch.log_softmax(logits, -1).amax(-1), task)
    return to_unit(output, task).square().sum(1) / 2


def drawn_labels(output: Tensor, task: Task, generator: torch.Generator) -> Tensor:
    """Cross-entropy ``(B,)`` with labels drawn from what the model says, or random directions of its features.

    The mean of the squared gradient is the Fisher information's diagonal.
    """
    if task.decides:
        logits = to_logits(output, task)
        return -likelihood(logits, drawn(logits, 1, generator)[..., 0], task)
    unit = to_unit(output, task)
    return (unit * torch.randn(unit.shape, generator=generator).to(unit)).sum(1)


def row_weights(
    model: nn.Module, layers: Sequence[str], images: Tensor, task: Task = CLASSIFICATION, seed: int = 0
) -> RowWeights:
    """Squared gradient at each row of the outputs of ``layers``, image by image, around a mean of one.

    Late layers of a ViT matter at the class token alone. Images are ``(N, C, H, W)``; windows of an image are neighbours.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    outputs: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def keep(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            outputs[name] = output

        return keep

    if not layers:
        return {}
    handles = [model.get_submodule(name).register_forward_hook(keeper(name)) for name in layers]
    try:
        for batch in track(images.split(BATCH), "weighing rows"):
            with torch.enable_grad():
                loss = drawn_labels(model(batch.to(device).requires_grad_()), task, generator).sum()
            gradients = torch.autograd.grad(loss, [outputs[name] for name in layers])
            for name, gradient in zip(layers, gradients, strict=True):
                found[name].append(gradient.square().mean(-1).reshape(len(batch), -1).cpu())
    finally:
        for handle in handles:
            handle.remove()
    whole = {name: torch.cat(parts) for name, parts in found.items()}
    return {name: EVEN + (1 - EVEN) * w / w.mean().clamp(min=1e-30) for name, w in whole.items()}
