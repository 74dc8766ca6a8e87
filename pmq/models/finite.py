"""Checks that the parameters and outputs of a model are finite, as nothing can be measured on NaN or infinity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.models.output_selection import run

_WHAT_TO_DO = "check checkpoint and preprocessing"


def check_finite(model: nn.Module, images: Tensor | None = None, batch_size: int = 16) -> None:
    """Check that parameters and buffers of ``model``, and its outputs on ``images`` ``(N, C, H, W)``, are finite.

    Buffers may contain ``-inf``, as masks do, and be infinite if they are single numbers, as limits that clamp nothing are.

    Raises:
        PmqError: a parameter, buffer or output is not finite, the first of which is named; or the model fails on the images.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise PmqError(f"{name!r} of the model contains {_kind(parameter)}; {_WHAT_TO_DO}")
    for name, tensor in model.named_buffers():
        limit = tensor.numel() == 1
        if tensor.isnan().any() or (tensor.isposinf().any() and not limit):
            raise PmqError(f"{name!r} of the model contains {_kind(tensor)}; {_WHAT_TO_DO}")
    if images is not None:
        device = next(model.parameters()).device
        for batch in images.split(batch_size):
            x = batch.to(device)
            check_outputs(model, x, run(model, x))


def check_outputs(model: nn.Module, images: Tensor, output: Tensor) -> None:
    """Check that the ``output`` of a model on ``images`` is finite.

    Raises:
        PmqError: the output is not finite; the message names the first module whose output is not.
    """
    if output.isfinite().all():
        return
    if not images.isfinite().all():
        raise PmqError(f"the images contain {_kind(images)}; {_WHAT_TO_DO}")
    faulty: list[str] = []

    def inspect(name: str, output: Any) -> None:
        outputs = output if isinstance(output, tuple | list) else (output,)
        if any(isinstance(x, Tensor) and x.is_floating_point() and not x.isfinite().all() for x in outputs):
            faulty.append(name)

    hooks = [
        module.register_forward_hook(lambda _, args, out, name=name: inspect(name, out)) for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    where = repr(faulty[0]) if faulty and faulty[0] else "the model itself"
    raise PmqError(f"the model's FP32 outputs are not finite; the first module with such outputs is {where}; {_WHAT_TO_DO}")


def _kind(tensor: Tensor) -> str:
    return "NaN" if tensor.isnan().any() else "infinite values"
