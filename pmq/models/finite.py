"""Refuse models whose numbers are no numbers: of what they compute nothing can be measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.models.output_selection import run

_WHAT_TO_DO = "check checkpoint and preprocessing"


def check_finite(model: nn.Module, images: Tensor | None = None, batch_size: int = 16) -> None:
    """Raise if parameters or buffers of ``model`` are not finite, or its outputs on ``images`` ``(N, C, H, W)``.

    Raises:
        PmqError: they are not, it names the first of them; or the model fails on such images.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise PmqError(f"{name!r} of the model holds {_met(parameter)}; {_WHAT_TO_DO}")
    for name, tensor in model.named_buffers():
        if tensor.isnan().any() or tensor.isposinf().any():  # masks are made of -inf
            raise PmqError(f"{name!r} of the model holds {_met(tensor)}; {_WHAT_TO_DO}")
    if images is not None:
        device = next(model.parameters()).device
        for batch in images.split(batch_size):
            x = batch.to(device)
            check_outputs(model, x, run(model, x))


def check_outputs(model: nn.Module, images: Tensor, output: Tensor) -> None:
    """Raise if the ``output`` of a model on ``images`` is not finite.

    Raises:
        PmqError: it is not; it names the module that computed the first value that is not.
    """
    if output.isfinite().all():
        return
    if not images.isfinite().all():
        raise PmqError(f"the images hold {_met(images)}; {_WHAT_TO_DO}")
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        outputs = output if isinstance(output, tuple | list) else (output,)
        if any(isinstance(x, Tensor) and x.is_floating_point() and not x.isfinite().all() for x in outputs):
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda _, args, out, name=name: look(name, out)) for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    where = repr(found[0]) if found and found[0] else "the model itself"
    raise PmqError(f"the model's outputs in FP32 are not finite; the first module whose are not is {where}; {_WHAT_TO_DO}")


def _met(tensor: Tensor) -> str:
    return "NaN" if tensor.isnan().any() else "infinite values"
