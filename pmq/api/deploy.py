"""From an allocation to a file that a runtime executes, proved to compute what was simulated."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core import FLOAT, Allocation, PmqError
from pmq.core.allocation import pmq_version
from pmq.core.coverage import check_coverage, coverage
from pmq.core.patches import PatchMap
from pmq.core.paths import architecture, named_path
from pmq.core.recipe import Recipe, find_recipe
from pmq.core.spec import What, as_what, read_bits, task_of
from pmq.core.task import AUTO, Task
from pmq.cost import CostModel, LatencyTable
from pmq.cost.latency import PLAIN
from pmq.evaluation import Accuracy
from pmq.models import class_names
from pmq.models.finite import check_finite
from pmq.optimize import Space, read_space
from pmq.pipeline.allocation import carry_out
from pmq.pipeline.images import as_images
from pmq.pipeline.modes import undisturbed
from pmq.pipeline.pruned_model import plain, pruned_like
from pmq.pipeline.quantize import Fresh
from pmq.pipeline.subject import Subject, take_in
from pmq.pruning import plan_of
from pmq.quant import Quantized, realise, restore
from pmq.runtimes import TARGETS, Target
from pmq.runtimes.deployment import Deployment
from pmq.runtimes.images import load_image
from pmq.runtimes.intake import Intake
from pmq.runtimes.labels import TARGET, described, known_preprocess
from pmq.runtimes.layer import deploy_layers
from pmq.runtimes.profile import fingerprint
from pmq.runtimes.proof import (
    agreement_check,
    bits_check,
    latency_check,
    layer_errors,
    layers_check,
    outputs_for,
    pictures_check,
    size_check,
)
from pmq.runtimes.rows import leave_out_tokens
from pmq.runtimes.speed import latencies
from pmq.runtimes.timing import machine

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
    runtime, out, what = TARGETS[target], named_path(out, "folder to write"), as_what(what)
    runtime.require()
    if dynamic_batch and not runtime.open_batch:
        raise PmqError(f"target {target!r} has no open batch size; deploy without --dynamic-batch")
    images = as_images(images).cpu()
    like = what if isinstance(what, Allocation) and not recalibrate else None
    subject = Subject.of(model, "cpu", images, crop_pct, task_of(task, what), like, data_config)
    if dynamic_batch and subject.model.closed:
        raise PmqError(
            "the graph of this model, which decides by the number of images, is of a single one; deploy without --dynamic-batch"
        )
    if len(getattr(subject.module, "outputs_taken", ())) > 1:
        raise PmqError("a file gives one output, and several of this model's were asked for; name one of them")
    config = subject.info.data_config
    intake = Intake.of(input, layout, config)
    images = intake.representable(images)
    if calibration_images is not None:
        calibration_images = as_images(calibration_images).cpu()
        check_finite(subject.module, calibration_images)
    reference = subject.module if reference is None else take_in(reference, "cpu", images)
    if isinstance(what, Allocation):
        subject = pruned_like(subject, what, calibration_images if recalibrate else None)
    planned = _assignment(what, subject, target)
    runtime.check(planned, subject.inventory)
    if what != "fp32":
        check_coverage(coverage(subject.inventory), partial or isinstance(what, Allocation))
    predicted = floats_ms = None
    if latency is not None:
        latency.check(fingerprint(runtime), target=target, threads=threads, batch_size=1)
        plan = plan_of(subject.module)
        predicted = CostModel(subject.inventory, latency, plan).costs(planned, _patches(what))["latency_ms"]
        floats_ms = latency.whole_ms(dict.fromkeys(latency.layers, PLAIN))
        floats_ms -= 0.0 if plan is None else latency.pruned_ms(dict.fromkeys(subject.inventory.names, FLOAT), plan)
    quantized = _quantized(what, subject, planned, recipe, calibration_images, seed, recalibrate)
    restored = copy.deepcopy(subject.model)
    layers = deploy_layers(restored, subject.inventory, quantized, restore(restored, quantized))
    names, example = [layer.name for layer in layers], torch.from_numpy(intake.fed(images[:1]))
    whole = skeleton = runtime.skeleton(intake.entered(restored), names, example, dynamic_batch)
    if quantized.patches is not None:
        leave_out_tokens(restored, subject.inventory, quantized.patches)
        skeleton = runtime.skeleton(intake.entered(restored), names, example, dynamic_batch)
    classes = class_names(subject.module)
    metadata = described(config, subject.info.num_classes, classes, subject.task.name, input, layout) | {TARGET: target}
    stem = f"{architecture(subject.info.name)}-{target}"
    files = runtime.save(runtime.build(skeleton, layers), out / f"{stem}.failed{runtime.suffix}", metadata)  # until it is proved
    session, stored = runtime.session(files[0], threads), runtime.stored(files[0])
    simulator = realise(copy.deepcopy(subject.model), subject.inventory, quantized)
    plainly = simulator
    if quantized.patches is not None:  # the layers alone are proved with all their tokens
        plainly = realise(copy.deepcopy(subject.model), subject.inventory, replace(quantized, patches=None))
    others = {"fp32": runtime.build(whole, [layer.plain() for layer in layers])}
    others |= {} if whole is skeleton else {"whole": runtime.build(whole, layers)}
    if plan_of(reference) != plan_of(subject.module):
        others["unpruned"] = in_fp32(runtime, reference, images[:1])
    running = {name: runtime.session(built, threads) for name, built in others.items()}
    plain_image = {"unpruned": images[:1].numpy()}
    speed = latencies({"file": session, **running}, intake.fed(images[:1]), plain_image, reference, images[:1], threads, rounds)
    found = outputs_for(session, (intake.fed(image) for image in images.split(1)))
    wanted = _outputs(simulator.model, images)
    original = _outputs(reference, images)
    simulated, exact = _compared(wanted, found, subject.task), _compared(original, found, subject.task)
    size = sum(p.stat().st_size for p in files)
    promised = CostModel(subject.inventory).size_bytes(quantized.assignment, quantized.patches)
    buffers = sum(b.numel() * b.element_size() for b in subject.model.buffers())
    proof = {
        "layers": layers_check(layer_errors(runtime, layers, plainly, images[:1], threads)),
        "agreement": agreement_check(simulated, len(images)),
        "bits": bits_check(stored, quantized.assignment, subject.inventory),
        "size": size_check(size, promised, runtime.graph_bytes + buffers),
    }
    if pictures and (described_as := known_preprocess(metadata, files[0])) is not None:
        seen = outputs_for(session, (load_image(Path(picture), described_as) for picture in pictures))
        proof["pictures"] = pictures_check(_compared(found[: len(seen)], seen, subject.task), len(seen))
    if predicted is not None and floats_ms is not None:
        proof["latency"] = latency_check(speed["latency_ms"], speed["fp32_latency_ms"], predicted, floats_ms)
    passed = all(check.passed for check in proof.values())
    proved = [p.with_name(p.name.replace(f"{stem}.failed", stem)) for p in files]
    if passed:
        files = [p.replace(to) for p, to in zip(files, proved, strict=True)]
    else:
        for old in proved:  # which this one was to replace
            old.unlink(missing_ok=True)
    deployment = Deployment(
        file=files[0].name,
        files=[p.name for p in files],
        target=target,
        status="proved" if passed else "failed",
        model=subject.info.name,
        versions=runtime.versions() | {"pmq": pmq_version(), "torch": torch.__version__},
        machine=machine(),
        layers=stored,
        size_bytes=size,
        promised_bytes=promised,
        batch_size=1,
        threads=threads,
        predicted_latency_ms=predicted,
        agreement_simulated=simulated["agreement"],
        kl_simulated=simulated["kl"],
        agreement_fp32=exact["agreement"],
        kl_fp32=exact["kl"],
        agreement_simulation_fp32=_compared(original, wanted, subject.task)["agreement"],
        n_images=len(images),
        proof=proof,
        input=input,
        layout=layout,
        run=[f"pmq run {shlex.quote(str(out / files[0].name))} IMAGE", f"pip install 'pmq[{runtime.extra}]'"],
        **speed,
    )
    deployment.save(out)
    return deployment


def in_fp32(runtime: Target, model: nn.Module, image: Tensor) -> Any:
    """Build a model as it is for a runtime."""
    subject = Subject.of(model, "cpu", image)
    layers = deploy_layers(subject.model, subject.inventory, plain(subject), {})
    return runtime.build(runtime.skeleton(subject.model, [layer.name for layer in layers], image), layers)


def _assignment(what: What, subject: Subject, target: str) -> dict[str, Any]:
    """Which choices are asked for; shorthands are laid over the target's own space."""
    if isinstance(what, Allocation):
        if what.patches is not None and what.patches.simulated:
            raise PmqError("these bits of single patches are simulated only; deploy the allocation that they were laid over")
        subject.inventory.check_names(what.components)
        return what.assignment
    if what == "fp32":
        return dict.fromkeys(subject.inventory.names, FLOAT)
    return Space(read_space(target), subject.inventory, find_recipe("best").estimator).uniform(*read_bits(what))


def _patches(what: What) -> PatchMap | None:
    return what.patches if isinstance(what, Allocation) else None


def _quantized(
    what: What,
    subject: Subject,
    assignment: dict[str, Any],
    recipe: str | Recipe,
    calibration: Tensor | None,
    seed: int,
    recalibrate: bool,
) -> Quantized:
    if isinstance(what, Allocation):
        fresh = Fresh(subject, calibration, seed, None)
        return fresh.quantize(what.recipe, assignment, what.patches) if recalibrate else carry_out(subject, what)
    if what == "fp32":
        recipe, calibration = find_recipe("minmax"), torch.zeros(1, *subject.info.data_config["input_size"])
    return Fresh(subject, calibration, seed, None).quantize(find_recipe(recipe), assignment)


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(x) for x in images.split(16)])


def _compared(reference: Tensor, output: Tensor, task: Task) -> dict[str, Any]:
    """Agreement and KL (or feature error) of outputs ``(N, C)``."""
    total = Accuracy(task=task)
    total.update(reference, output, None)
    return total.compute()
