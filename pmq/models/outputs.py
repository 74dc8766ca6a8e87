"""Conversion of outputs for a task: to logits whose softmax is compared, or to vectors in units of their norm."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.task import Task


def to_logits(output: Tensor, task: Task) -> Tensor:
    """Return logits ``(B, C)`` whose softmax is the model's prediction; a single logit ``(B, 1)`` becomes a pair ``(B, 2)``.

    With several decisions per image the result is ``(B, K, C)``: a pair for each of K labels, or the classes at each of K
    positions. The softmax of ``(0, z)`` is the logistic function of ``z``, so KL divergences, decisions and sampled labels of a
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
    """Reduce values of decisions ``(B, K)`` to values of images ``(B,)``: the sum over labels, the mean over positions."""
    if task.once:
        return values
    return values.sum(1) if task.name == "multilabel" else values.mean(1)


def drawn(logits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sample ``count`` labels of each decision, ``(..., count)``, from the softmax of logits ``(B, C)`` or ``(B, K, C)``."""
    probabilities = logits.detach().softmax(-1).cpu()
    labels = torch.multinomial(
        probabilities.reshape(-1, probabilities.shape[-1]), count, replacement=count > 1, generator=generator
    )
    return labels.reshape(*probabilities.shape[:-1], count).to(logits.device)


def likelihood(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Return the log-likelihood of labels ``(B,)`` or ``(B, K)`` for each image, scaled for :func:`joined` errors.

    Its expected squared gradient is that of the joined errors. Labels of several decisions are sampled independently, so their
    squared gradients add up, and for a mean over K decisions the sum of log-likelihoods is divided by the square root of K.
    """
    log_p = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
    return log_p if task.once else log_p.sum(1) / (log_p.shape[1] ** 0.5 if task.name == "dense" else 1.0)


def to_unit(output: Tensor, task: Task) -> Tensor:
    """Flatten ``(B, ...)`` to ``(B, C)`` in units in which a squared error is a relative error.

    Features are divided by their norm, image by image, values of a regression by the square root of the task's scale.
    """
    return output.flatten(1) / unit_norm(output.detach(), task)


def unit_norm(reference: Tensor, task: Task) -> Tensor:
    """Return the norm ``(B, 1)`` by which errors of outputs ``(B, ...)`` are divided."""
    if task.name == "regression":
        return reference.new_full((len(reference), 1), task.scale**0.5)
    return reference.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-15)


@torch.no_grad()
def scaled(task: Task, model: nn.Module, images: Tensor, batch_size: int = 16) -> Task:
    """Return the task with its ``scale``, the mean squared norm of outputs on ``images`` ``(N, C, H, W)``.

    Only regression has a scale; other tasks are returned unchanged.

    Raises:
        PmqError: all outputs are zero, so that relative errors are undefined.
    """
    if task.name != "regression":
        return task
    device = next(model.parameters()).device
    squares = [model(x.to(device)).double().flatten(1).square().sum(1) for x in images.split(batch_size)]
    scale = float(torch.cat(squares).mean())
    if scale == 0:
        raise PmqError("all outputs of the model are 0 on the calibration images; check checkpoint and data")
    return replace(task, scale=scale)
