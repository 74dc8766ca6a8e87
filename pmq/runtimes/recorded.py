"""Inputs and outputs of the layers of a simulated model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pmq.quant import Simulator

#: input and output of each call of each layer, by its name
Calls = dict[str, list[tuple[Tensor, Tensor]]]


@torch.no_grad()
def record_layers(simulator: Simulator, layers: Iterable[str], images: Tensor) -> tuple[Calls, Tensor]:
    """Run a simulated model on images ``(B, C, H, W)``; return what its ``layers`` take and return, and its own output."""
    calls: Calls = {}

    def recorder(name: str) -> Any:
        return lambda module, args, output: calls.setdefault(name, []).append((args[0].clone(), output.clone()))

    handles = [simulator.layer(f"{name}.weight").register_forward_hook(recorder(name)) for name in layers]
    try:
        return calls, simulator.model(images)
    finally:
        for handle in handles:
            handle.remove()
