"""Gradients of a model's own log-likelihood: the weight of an error, from a few backward passes and no labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.core.task import Task
from pmq.models.outputs import drawn, joined, likelihood, to_logits, to_unit
from pmq.quant.custom_loss import directions
from pmq.quant.divergence import output_error

#: labels drawn from the model's own softmax for each image
DRAWS = 2


def log_likelihoods(output: Tensor, task: Task, generator: torch.Generator, draws: int = DRAWS) -> list[Tensor]:
    """Log-likelihoods of ``draws`` labels drawn for each image, each summed over the batch.

    The mean of their gradient's outer product is the Fisher information, which is the Hessian of the KL divergence. Values
    and features ``(B, ...)`` have no labels: random directions in their space take their place, and for a loss of one's own
    such as its Hessian is the covariance of.
    """
    if task.loss is not None:
        return [(d * output).sum() for d in directions(task.loss, output, generator, draws)]
    if task.decides:
        logits = to_logits(output, task)
        labels = drawn(logits, draws, generator)
        return [likelihood(logits, labels[..., i], task).sum() for i in range(draws)]
    unit = to_unit(output, task)
    # The relative squared error is |J d|^2; twice the half of its expectation over directions.
    return [2**0.5 * (unit * torch.randn(unit.shape, generator=generator).to(unit)).sum() for _ in range(draws)]


def output_loss(reference: Tensor, output: Tensor, task: Task) -> Tensor:
    """The error of an output for each image, but for what does not depend on it: gradients and curvature are the error's.

    The cross-entropy in place of the KL divergence, which is cut off at zero, where FP32 is.
    """
    if task.loss is not None or not task.decides:
        return output_error(reference, output, task)
    p, log_q = torch.softmax(to_logits(reference, task), -1), torch.log_softmax(to_logits(output, task), -1)
    return joined(-(p * log_q).sum(-1), task)


def squared_gradients(losses: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Mean over ``losses`` of the squared gradient at each of ``tensors``."""
    total: list[Tensor] = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, tensors, retain_graph=loss is not losses[-1])
        squares = [g.square_() / len(losses) for g in gradients]
        total = squares if not total else [t.add_(s) for t, s in zip(total, squares, strict=True)]
    return total
