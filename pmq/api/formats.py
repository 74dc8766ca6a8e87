"""A model as the files that people ask for first: FP32, FP16 weights, int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pmq.api.deploy import deploy
from pmq.core.task import AUTO
from pmq.optimize import read_space

FORMATS = ("fp32", "w16a32", "w8a8")
#: what is told of each file
TOLD = ("file", "target", "size_bytes", "latency_ms", "unpruned_latency_ms", "torch_latency_ms", "n_images")


def deploy_formats(
    model: nn.Module,
    target: str,
    images: Tensor,
    calibration: Tensor,
    folder: Path,
    *,
    reference: nn.Module,
    seed: int = 0,
    task: str = AUTO,
) -> list[dict[str, Any]]:
    """Deploy a model in each of the formats that a target executes, and tell what came of it.

    Args:
        model: to deploy.
        target: the runtime.
        images: ``(N, C, H, W)`` to prove on.
        calibration: ``(N, C, H, W)`` that fix ranges.
        folder: to write to, a folder a format.
        reference: FP32 model to agree with: that before pruning.
        seed: of calibration.
        task: what outputs mean, see :func:`pmq.deploy`.
    """
    executed = {f"w{mode.weight.bits}a{mode.input.bits}" for mode in read_space(target).modes.values()}
    found = []
    for what in FORMATS:
        if what != "fp32" and what not in executed:
            continue
        how: dict[str, Any] = {"calibration_images": calibration, "reference": reference, "seed": seed, "task": task}
        made = deploy(model, what, target, images, folder / what, **how)
        told = {key: getattr(made, key) for key in TOLD} | {"what": what, "passed": made.passed}
        found.append(told | {"agreement": made.agreement_fp32, "kl": made.kl_fp32})
    return found
