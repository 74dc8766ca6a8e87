"""Gradients of a model's log-likelihood, which weight errors; they need a few backward passes and no labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.core.task import Task
from pmq.models.outputs import drawn, joined, likelihood, to_logits, to_unit
from pmq.quant.custom_loss import directions
from pmq.quant.divergence import output_error

#: number of labels drawn from the model's softmax for each image
DRAWS = 2


def log_likelihoods(output: Tensor, task: Task, generator: torch.Generator, draws: int = DRAWS) -> list[Tensor]:
    """Return the log-likelihoods of ``draws`` labels drawn for each image, each summed over the batch.

    The mean outer product of their gradients is the Fisher information, which is the Hessian of the KL divergence. Values and
    features ``(B, ...)`` have no labels, so they are projected onto random directions instead. For a custom loss these are
    directions whose covariance is the Hessian of the loss.
    """
    if task.loss is not None:
        return [(d * output).sum() for d in directions(task.loss, output, generator, draws)]
    if task.decides:
        logits = to_logits(output, task)
        labels = drawn(logits, draws, generator)
        return [likelihood(logits, labels[..., i], task).sum() for i in range(draws)]
    unit = to_unit(output, task)
    # The relative squared error is |J d|^2, whose Hessian is twice the mean outer product of the gradients without the factor.
    return [2**0.5 * (unit * torch.randn(unit.shape, generator=generator).to(unit)).sum() for _ in range(draws)]


def output_loss(reference: Tensor, output: Tensor, task: Task) -> Tensor:
    """Return the error of each image's output up to terms that do not depend on the output.

    Gradients and curvature are those of the error. The KL divergence is replaced by the cross-entropy, as
    :func:`pmq.quant.divergence.kl_divergence` is clamped at zero, its value for FP32's outputs.
    """
    if task.loss is not None or not task.decides:
        return output_error(reference, output, task)
    p, log_q = torch.softmax(to_logits(reference, task), -1), torch.log_softmax(to_logits(output, task), -1)
    return joined(-(p * log_q).sum(-1), task)


def squared_gradients(losses: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Return the squared gradient with respect to each of ``tensors``, averaged over ``losses``."""
    total: list[Tensor] = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, tensors, retain_graph=loss is not losses[-1])
        squares = [g.square_() / len(losses) for g in gradients]
        total = squares if not total else [t.add_(s) for t, s in zip(total, squares, strict=True)]
    return total
