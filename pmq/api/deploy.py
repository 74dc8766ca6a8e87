"""The verb ``deploy``."""

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
from pmq.pipeline.deploy.bundle import remove_bundle, write_bundle_of
from pmq.pipeline.deploy.plan import plan_deployment
from pmq.pipeline.deploy.prove import measure_file, prove
from pmq.pipeline.deploy.publish import publish
from pmq.pipeline.torch_modes import undisturbed
from pmq.runtimes.deployment import Deployment

#: default number of timed forward passes of each model
N_PASSES = 30


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
    n_passes: int = N_PASSES,
    crop_pct: float | None = None,
    seed: int = 0,
    task: str = AUTO,
    partial: bool = False,
    data_config: Mapping[str, Any] | None = None,
    input: str = "float",
    layout: str = "nchw",
    pictures: Sequence[Path | str] = (),
    bundle: bool = False,
) -> Deployment:
    """Write a model file with an allocation's bits for a runtime, and prove that it computes what is simulated.

    Args:
        model: a module (left unchanged), a timm name, or ``None`` for the embedded model.
        what: an allocation, its file, its run directory, ``fp32``, or a uniform shorthand such as ``w8a8``.
        target: the runtime, see :mod:`pmq.runtimes`.
        images: images ``(N, C, H, W)`` to prove the file on, other than the calibration images.
        out: folder to write to.
        calibration_images: images ``(N, C, H, W)``, needed for shorthands and for ``recalibrate``.
        recipe: recipe that quantizes shorthands.
        latency: latency table whose prediction the proof checks; without one the latency is measured only.
        reference: FP32 model to compare with, where it is not ``model``: that before pruning.
        recalibrate: quantize the allocation again by its own recipe instead of loading its tensors.
        dynamic_batch: leave the batch size of the file open.
        threads: threads of the runtime when it is timed.
        n_passes: timed forward passes of each model.
        crop_pct: crop of the images, where it differs from the model's data config.
        seed: seed of the calibration of shorthands.
        task: meaning of the outputs, a name of :class:`pmq.core.task.Task`; ``auto`` takes that of the allocation, otherwise
            derives it from the number of outputs.
        partial: deploy a shorthand although less than half of the model can be quantized.
        data_config: preprocessing in timm's terms, where the model does not define it or it differs: ``mean``, ``std``,
            ``interpolation``, ``crop_pct``.
        input: ``float``: the file takes preprocessed images; ``uint8``: it takes pixel values from 0 to 255 and preprocesses.
        layout: layout of the file's input, ``nchw`` or ``nhwc``.
        bundle: also write a folder ``check`` with inputs, expected tensors of each layer, and programs that compare them with
            what the file computes on another device.
        pictures: picture files of the first of ``images``, to prove that ``pmq run`` preprocesses them equally.

    Returns:
        The record that is also written as ``deployment.json``: files, size, latencies, agreement and the proof.

    Raises:
        PmqError: the file should preprocess pictures and the preprocessing is unknown, the target's packages are missing, the
            allocation is of another model, or it has a component that the target cannot execute. Nothing is written then.
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
    measured = measure_file(plan, built, n_passes)
    proved = prove(plan, built, measured, pictures)
    deployment = publish(plan, built, measured, proved)
    remove_bundle(plan.out)
    if bundle and proved.passed:
        write_bundle_of(plan, built, plan.out / deployment.file)
    return deployment
