"""Scaling of the logits, which restores the confidence that a network loses through quantization noise."""

from __future__ import annotations

from scipy.optimize import minimize_scalar
from torch import Tensor

from pmq.quant.divergence import kl_divergence

#: limits of the scale, beyond which few images do not determine it
LOWEST, HIGHEST = 0.5, 2.0


def logit_scale(reference: Tensor, logits: Tensor) -> float:
    """Return the factor on ``logits`` ``(N, classes)`` with the least KL divergence from ``reference``, a convex problem.

    Noise adds to the variance by which each LayerNorm divides, so the layers' contributions to the logits become smaller.

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
