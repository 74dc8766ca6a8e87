"""How far a model's output is from the reference: the yardstick of sensitivity, search and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(reference || logits) of the softmax, in nats, for each image: ``(B, C)``, ``(B, C)`` -> ``(B,)``.

    >>> kl_divergence(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([0.3278])
    """
    p, q = torch.log_softmax(reference.float(), -1), torch.log_softmax(logits.float(), -1)
    # In doubles: the terms cancel almost entirely where the two are close.
    return (p.double().exp() * (p.double() - q.double())).sum(-1).clamp(min=0).float()


def feature_error(reference: Tensor, features: Tensor) -> Tensor:
    """Squared error relative to the reference's squared norm, for each image: ``(B, ...)`` -> ``(B,)``."""
    reference, features = reference.flatten(1), features.flatten(1)
    return (features - reference).square().sum(1) / reference.square().sum(1).clamp(min=1e-30)


def output_error(reference: Tensor, output: Tensor, classifier: bool) -> Tensor:
    """KL of a classifier's logits, relative error of a feature extractor's features: ``(B,)``."""
    return kl_divergence(reference, output) if classifier else feature_error(reference, output)
