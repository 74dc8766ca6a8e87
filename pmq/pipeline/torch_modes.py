"""Isolation of the verbs from the caller's torch modes: gradients work, and autocast is off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def undisturbed(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that gradients work in it and it computes in FP32, whatever mode its caller is in."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))  # which ends torch.no_grad too
            for device in ("cpu", "cuda", "mps"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return command(*args, **kwargs)

    return run
