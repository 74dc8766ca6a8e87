"""Gradients of a model's own log-likelihood: the weight of an error, from a few backward passes and no labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.quant.divergence import feature_error

#: labels drawn from the model's own softmax for each image
DRAWS = 2


def log_likelihoods(output: Tensor, classifier: bool, generator: torch.Generator, draws: int = DRAWS) -> list[Tensor]:
    """Log-likelihoods of ``draws`` labels drawn for each image, each summed over the batch.

    The mean of their gradient's outer product is the Fisher information, which is the Hessian of the KL divergence. A
    feature extractor ``(B, ...)`` has no labels: random directions in the space of its features take their place.
    """
    if classifier:
        log_p = torch.log_softmax(output, -1)
        labels = torch.multinomial(log_p.detach().exp().cpu(), draws, replacement=True, generator=generator)
        return [log_p.gather(1, labels[:, i : i + 1].to(output.device)).sum() for i in range(draws)]
    unit = output.flatten(1) / output.detach().flatten(1).norm(dim=1, keepdim=True)
    # The relative squared error is |J d|^2; twice the half of its expectation over directions.
    return [2**0.5 * (unit * torch.randn(unit.shape, generator=generator).to(unit)).sum() for _ in range(draws)]


def output_loss(reference: Tensor, output: Tensor, classifier: bool) -> Tensor:
    """The error of an output for each image, but for what does not depend on it: gradients and curvature are the error's.

    The cross-entropy in place of the KL divergence, which is cut off at zero, where FP32 is.
    """
    if not classifier:
        return feature_error(reference, output)
    return -(torch.softmax(reference, -1) * torch.log_softmax(output, -1)).sum(-1)


def squared_gradients(losses: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Mean over ``losses`` of the squared gradient at each of ``tensors``."""
    total: list[Tensor] = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, tensors, retain_graph=loss is not losses[-1])
        squares = [g.square_() / len(losses) for g in gradients]
        total = squares if not total else [t.add_(s) for t, s in zip(total, squares, strict=True)]
    return total
