"""Commands run as if nothing were set around them: no mode without gradients, no half precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def undisturbed(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command one whose backward passes work, and that computes in FP32, wherever it is called."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))  # which puts torch.no_grad out of force as well
            for device in ("cpu", "cuda", "mps"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return command(*args, **kwargs)

    return run
