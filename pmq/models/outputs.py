"""Outputs as their task reads them: logits whose softmax counts, or vectors in units of their size."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.task import Task


def to_logits(output: Tensor, task: Task) -> Tensor:
    """Logits ``(B, C)`` whose softmax is what a model says: of one logit ``(B, 1)`` the pair ``(B, 2)`` of no and yes.

    Where there are several decisions for each image, ``(B, K, C)``: a pair for each of K labels, or the classes at each of K
    positions. The softmax of ``(0, z)`` is the logistic function of ``z``, so KL divergences, decisions and drawn labels of a
    pair are those of the single logit.

    >>> to_logits(torch.tensor([[2.0]]), Task("binary"))
    tensor([[0., 2.]])
    >>> to_logits(torch.tensor([[2.0, 1.0]]), Task("multilabel")).shape
    torch.Size([1, 2, 2])
    """
    if task.name == "multilabel":
        return torch.stack([torch.zeros_like(output), output], -1)
    if task.name == "dense":
        return output.flatten(2).movedim(1, -1)
    return output if task.name == "classification" else torch.cat([torch.zeros_like(output), output], -1)


def joined(values: Tensor, task: Task) -> Tensor:
    """What each decision is worth ``(B, K)``, for each image ``(B,)``: of labels the sum, of positions the mean."""
    if task.once:
        return values
    return values.sum(1) if task.name == "multilabel" else values.mean(1)


def drawn(logits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` labels of each decision from the softmax of logits ``(B, C)`` or ``(B, K, C)``: ``(..., count)``."""
    shares = logits.detach().softmax(-1).cpu()
    found = torch.multinomial(shares.reshape(-1, shares.shape[-1]), count, replacement=count > 1, generator=generator)
    return found.reshape(*shares.shape[:-1], count).to(logits.device)


def likelihood(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Log-likelihood of labels ``(B,)`` or ``(B, K)`` for each image, whose squared gradient is that of :func:`joined` errors.

    Labels of several decisions are drawn apart, so squares add up: of a mean they are to be divided by its count once.
    """
    each = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
    return each if task.once else each.sum(1) / (each.shape[1] ** 0.5 if task.name == "dense" else 1.0)


def to_unit(output: Tensor, task: Task) -> Tensor:
    """Flatten ``(B, ...)`` to ``(B, C)`` in units in which a squared error is a relative one.

    Features are measured by their own norm, image by image, values by the task's scale.
    """
    return output.flatten(1) / unit_norm(output.detach(), task)


def unit_norm(reference: Tensor, task: Task) -> Tensor:
    """Size ``(B, 1)`` that errors of outputs ``(B, ...)`` are compared with."""
    if task.name == "regression":
        return reference.new_full((len(reference), 1), task.scale**0.5)
    return reference.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-15)


@torch.no_grad()
def scaled(task: Task, model: nn.Module, images: Tensor, batch_size: int = 16) -> Task:
    """The task with the scale of its outputs on ``images`` ``(N, C, H, W)``, where it has one.

    Raises:
        PmqError: all values are zero, so that no error is relative to anything.
    """
    if task.name != "regression":
        return task
    device = next(model.parameters()).device
    squares = [model(x.to(device)).double().flatten(1).square().sum(1) for x in images.split(batch_size)]
    scale = float(torch.cat(squares).mean())
    if scale == 0:
        raise PmqError("all outputs of the model are 0 on the calibration images: check checkpoint and data")
    return replace(task, scale=scale)
