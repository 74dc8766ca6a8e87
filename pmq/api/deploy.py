"""From an allocation to a file that a runtime executes, proved to compute what was simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pmq.core.recipe import Recipe
from pmq.core.spec import What
from pmq.core.task import AUTO
from pmq.cost import LatencyTable
from pmq.pipeline.deploy.build import build
from pmq.pipeline.deploy.plan import plan_deployment
from pmq.pipeline.deploy.prove import measure_file, prove
from pmq.pipeline.deploy.publish import publish
from pmq.pipeline.modes import undisturbed
from pmq.runtimes.deployment import Deployment

#: timed forward passes of each model
ROUNDS = 30


@undisturbed
def deploy(
    model: nn.Module | str | None,
    what: What | Path,
    target: str,
    images: Tensor,
    out: Path | str,
    *,
    calibration_images: Tensor | None = None,
    recipe: str | Recipe = "best",
    latency: LatencyTable | None = None,
    reference: nn.Module | None = None,
    recalibrate: bool = False,
    dynamic_batch: bool = False,
    threads: int = 1,
    rounds: int = ROUNDS,
    crop_pct: float | None = None,
    seed: int = 0,
    task: str = AUTO,
    partial: bool = False,
    data_config: Mapping[str, Any] | None = None,
    input: str = "float",
    layout: str = "nchw",
    pictures: Sequence[Path | str] = (),
) -> Deployment:
    """Write an allocation as a file for a runtime, and prove it.

    Args:
        model: a timm-built module (left as it is), or timm's name, or ``None`` for the embedded one.
        what: an allocation, its file or its run, ``fp32``, or a uniform shorthand as ``w8a8``.
        target: the runtime, see :mod:`pmq.runtimes`.
        images: ``(N, C, H, W)`` to prove on, unlike those that calibrated.
        out: folder to write to.
        calibration_images: needed by shorthands and by ``recalibrate``.
        recipe: how shorthands are quantized.
        latency: table that predicts the latency; without one that is not checked.
        reference: FP32 model to agree with, and to be faster than, where that is not ``model``: that before pruning.
        recalibrate: carry the allocation out anew, by its own recipe, rather than take its tensors.
        dynamic_batch: leave the batch size open.
        threads: of the runtime, where it is timed.
        rounds: timed forward passes.
        crop_pct: how images are cropped, where the model's data config says otherwise.
        seed: of shorthands' calibration.
        task: what outputs mean: a name of :class:`pmq.core.task.Task`; ``auto``
            goes by the allocation, else by their number.
        partial: deploy a shorthand though less than half of the model can be quantized.
        data_config: how images are prepared, in timm's words, where the model does not say, or otherwise: ``mean``, ``std``,
            ``interpolation``, ``crop_pct``.
        input: ``float``: the file takes prepared images; ``uint8``: values of pictures from 0 to 255, which it prepares.
        layout: of the file's input, ``nchw`` or ``nhwc``.
        pictures: files of the first of ``images``, to prove that those are what ``pmq run`` makes of them.

    Raises:
        PmqError: a file is to prepare pictures and nobody says how, the target's packages are missing, the allocation is of
            another model, or it has a component that the target cannot execute. Nothing is written then.
    """
    plan = plan_deployment(
        model,
        what,
        target,
        images,
        out,
        calibration_images=calibration_images,
        latency=latency,
        reference=reference,
        recalibrate=recalibrate,
        dynamic_batch=dynamic_batch,
        threads=threads,
        crop_pct=crop_pct,
        task=task,
        partial=partial,
        data_config=data_config,
        input=input,
        layout=layout,
    )
    built = build(plan, recipe, seed, recalibrate)
    measured = measure_file(plan, built, rounds)
    proved = prove(plan, built, measured, pictures)
    return publish(plan, built, measured, proved)
