"""The verb ``simulate``."""

from __future__ import annotations

from torch import nn

from pmq.core import Allocation
from pmq.core.task import AUTO
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.pruned_model import shaped_like
from pmq.pipeline.subject import Subject
from pmq.pipeline.torch_modes import undisturbed
from pmq.quant import build_quantized_model


@undisturbed
def simulate(model: nn.Module, allocation: Allocation) -> nn.Module:
    """Return a module that computes ``model`` with the bits of ``allocation``, in floating point.

    Args:
        model: the FP32 model, which is left unchanged.
        allocation: the allocation; its weights and quantizers come with it, so no images are needed.

    Raises:
        PmqError: the allocation is of another model or other weights, or its tensors are missing.

    Example:
        >>> import torch, pmq
        >>> model, images = pmq.create_model(), torch.randn(12, 1, 28, 28)
        >>> quick = pmq.SearchOptions(recipe="fast", n_rounds=1)
        >>> result = pmq.search(model, images, "w4a8", space="w4a8", options=quick)
        >>> pmq.simulate(model, result.allocation)(images).shape
        torch.Size([12, 10])
    """
    subject = shaped_like(Subject.of(model, task=allocation.task or AUTO, like=allocation), allocation)
    return build_quantized_model(subject.model, subject.inventory, load_quantized(subject, allocation)).model
