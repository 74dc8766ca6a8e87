"""Losses without labels, and weights of the rows (tokens) of layer outputs from the gradients of these losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.progress import track
from pmq.core.task import CLASSIFICATION, Task
from pmq.models.outputs import drawn, joined, likelihood, to_logits, to_unit

BATCH = 8
#: share of the weight that is uniform over all rows, because the gradients of few images are noisy
EVEN = 0.1
RowWeights = dict[str, Tensor]  # layer -> (N, T)


def predicted_label_loss(output: Tensor, task: Task) -> Tensor:
    """Return the cross-entropy ``(B,)`` with the model's own predictions, or half the squared norm of its features."""
    if task.decides:
        logits = to_logits(output, task)
        return -joined(torch.log_softmax(logits, -1).amax(-1), task)
    return to_unit(output, task).square().sum(1) / 2


def sampled_label_loss(output: Tensor, task: Task, generator: torch.Generator) -> Tensor:
    """Return the cross-entropy ``(B,)`` with labels sampled from the model's predictions, or a random projection of features.

    The mean of the squared gradient is the diagonal of the Fisher information.
    """
    if task.decides:
        logits = to_logits(output, task)
        return -likelihood(logits, drawn(logits, 1, generator)[..., 0], task)
    unit = to_unit(output, task)
    return (unit * torch.randn(unit.shape, generator=generator).to(unit)).sum(1)


def row_weights(
    model: nn.Module, layers: Sequence[str], images: Tensor, task: Task = CLASSIFICATION, seed: int = 0
) -> RowWeights:
    """Return the squared gradient at each row (token) of the outputs of ``layers``, normalised to a mean of one.

    For example, only the class token matters in the last layers of a ViT. Images are ``(N, C, H, W)``. The windows of an
    image are contiguous in the rows of a layer with windowed attention.

    Returns:
        Weights ``(N, T)`` by layer.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    outputs: dict[str, Tensor] = {}

    def recorder(name: str) -> Any:
        def record(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            outputs[name] = output

        return record

    if not layers:
        return {}
    handles = [model.get_submodule(name).register_forward_hook(recorder(name)) for name in layers]
    try:
        for batch in track(images.split(BATCH), "row weights"):
            with torch.enable_grad():
                loss = sampled_label_loss(model(batch.to(device).requires_grad_()), task, generator).sum()
            gradients = torch.autograd.grad(loss, [outputs[name] for name in layers])
            for name, gradient in zip(layers, gradients, strict=True):
                parts[name].append(gradient.square().mean(-1).reshape(len(batch), -1).cpu())
    finally:
        for handle in handles:
            handle.remove()
    squares = {name: torch.cat(tensors) for name, tensors in parts.items()}
    return {name: EVEN + (1 - EVEN) * w / w.mean().clamp(min=1e-30) for name, w in squares.items()}
