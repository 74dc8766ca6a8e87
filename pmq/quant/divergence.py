"""Error of a model's output against the reference, the metric of sensitivity, search and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.core.task import Task
from pmq.models.outputs import joined, to_logits, unit_norm
from pmq.quant.custom_loss import excess


def kl_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """Return KL(reference || logits) of the softmax in nats, for each decision: ``(..., C)``, ``(..., C)`` -> ``(...)``.

    >>> kl_divergence(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([0.3278])
    """
    p, q = torch.log_softmax(reference.float(), -1), torch.log_softmax(logits.float(), -1)
    # In double precision, as the terms cancel almost entirely where the two distributions are close.
    return (p.double().exp() * (p.double() - q.double())).sum(-1).clamp(min=0).float()


def output_error(reference: Tensor, output: Tensor, task: Task) -> Tensor:
    """Return the error of each image's output: two tensors ``(B, ...)`` -> ``(B,)``.

    The error is the excess of the task's custom loss if it has one, the KL divergence of logits, or the relative squared error
    of values and features.
    """
    if task.loss is not None:
        return excess(task.loss, reference, output)
    if task.decides:
        return joined(kl_divergence(to_logits(reference, task), to_logits(output, task)), task)
    return ((output - reference).flatten(1) / unit_norm(reference, task)).square().sum(1)
