"""The scale of the logits: quantization noise makes a network less sure of itself than it was."""

from __future__ import annotations

from scipy.optimize import minimize_scalar
from torch import Tensor

from pmq.quant.divergence import kl_divergence

#: beyond these, few images say nothing about the scale
LOWEST, HIGHEST = 0.5, 2.0


def logit_scale(reference: Tensor, logits: Tensor) -> float:
    """Factor on ``logits`` ``(N, classes)`` with the least KL divergence from ``reference``: a convex problem of one number.

    Noise adds to the variance that each LayerNorm divides by, so what the layers say to the logits shrinks with it.

    >>> import torch
    >>> x = torch.randn(50, 10)
    >>> round(logit_scale(x, x / 1.5), 3)
    1.5
    """
    reference, logits = reference.double(), logits.double()
    optimum = minimize_scalar(
        lambda t: float(kl_divergence(reference, t * logits).mean()), bounds=(LOWEST, HIGHEST), method="bounded"
    )
    return float(optimum.x)
