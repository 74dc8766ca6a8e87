"""Deployment of one model in the formats that users ask for first: FP32, FP16 weights, and int8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMATS = ("fp32", "w16a32", "w8a8")
#: fields of a deployment that are reported of each file
FIELDS = ("file", "target", "size_bytes", "latency_ms", "unpruned_latency_ms", "torch_latency_ms", "n_images")


def deploy_formats(
    model: nn.Module,
    target: str,
    images: Tensor,
    calibration: Tensor,
    folder: Path,
    *,
    reference: nn.Module,
    seed: int,
    task: str,
) -> list[dict[str, Any]]:
    """Deploy a model in each format that a target executes, and report size, latency and agreement of each file.

    Args:
        model: the model to deploy.
        target: the runtime.
        images: images ``(N, C, H, W)`` to prove the files on.
        calibration: images ``(N, C, H, W)`` to calibrate on.
        folder: folder to write to; each format gets a folder below it.
        reference: FP32 model to compare with, which is the model before pruning.
        seed: seed of calibration.
        task: meaning of the outputs, see :func:`pmq.deploy`.
    """
    from pmq.api import deploy
    from pmq.optimize import read_space

    executed = {f"w{mode.weight.bits}a{mode.input.bits}" for mode in read_space(target).modes.values()}
    options: dict[str, Any] = {"calibration_images": calibration, "reference": reference, "seed": seed, "task": task}
    rows = []
    for what in FORMATS:
        if what == "fp32" or what in executed:
            deployment = deploy(model, what, target, images, folder / what, **options)
            row = {key: getattr(deployment, key) for key in FIELDS} | {"what": what, "passed": deployment.passed}
            rows.append(row | {"agreement": deployment.agreement_fp32, "kl": deployment.kl_fp32})
    return rows
