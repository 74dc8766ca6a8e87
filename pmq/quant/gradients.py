"""Gradients of a model's log-likelihood, which weight errors; they need a few backward passes and no labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pmq.core.task import Task
from pmq.graph import CapturedModel
from pmq.models.outputs import drawn, joined, likelihood, to_logits, to_unit
from pmq.quant.custom_loss import directions
from pmq.quant.divergence import output_error

#: number of labels drawn from the model's softmax for each image
DRAWS = 2

#: function that returns the losses of a model's output
Losses = Callable[[Tensor], list[Tensor]]


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


def gradients_by_stage(
    model: CapturedModel,
    images: Tensor,
    losses: Losses,
    observed: Callable[[int], list[Tensor]],
) -> Iterator[tuple[int, list[list[Tensor]]]]:
    """Yield each stage, from the last to the first, with the gradients of each loss at the tensors observed in it.

    The gradients of one stage are held at a time, and what the forward pass stored for a stage is released after it.

    Args:
        model: captured model.
        images: ``(B, C, H, W)``, which run through the model once.
        losses: function that returns the losses to differentiate.
        observed: function that returns the tensors of a stage that the forward pass computed, and keeps none of them.
    """
    passed = []
    x = images
    with torch.enable_grad():
        for stage in range(len(model.program.stages)):
            start = x.detach().requires_grad_()
            x = model.run(start, stage, stage + 1)
            passed.append((start, x))
        output = x.detach().requires_grad_()
        of_losses = losses(output)
        backward = [torch.autograd.grad(loss, output, retain_graph=loss is not of_losses[-1])[0] for loss in of_losses]
    del x, output, of_losses
    for stage in reversed(range(len(passed))):
        start, end = passed.pop()
        tensors = observed(stage)
        gradients = [
            list(torch.autograd.grad(end, [start, *tensors], outer, retain_graph=index < len(backward) - 1))
            for index, outer in enumerate(backward)
        ]
        backward = [of_loss.pop(0) for of_loss in gradients]
        del start, end, tensors
        yield stage, gradients


def mean_squares(gradients: list[list[Tensor]]) -> list[Tensor]:
    """Return the squared gradient with respect to each tensor, averaged over losses; ``gradients`` are overwritten."""
    return [torch.stack([g.square_() for g in of_tensor]).mean(0) for of_tensor in zip(*gradients, strict=True)]
