"""The first step of a deployment: read and check the inputs, and predict the latency, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pmq.core import FLOAT, Allocation, Assignment, PmqError
from pmq.core.coverage import check_coverage, coverage
from pmq.core.patches import PatchMap
from pmq.core.paths import architecture, named_path
from pmq.core.recipe import find_recipe
from pmq.core.spec import What, as_what, read_bits, task_of
from pmq.cost import CostModel, LatencyTable
from pmq.cost.latency import PLAIN
from pmq.models.finite import check_finite
from pmq.optimize import Space, read_space
from pmq.pipeline.images import as_images
from pmq.pipeline.intake import take_in
from pmq.pipeline.pruned_model import shaped_like
from pmq.pipeline.subject import Subject
from pmq.pruning import plan_of
from pmq.runtimes import TARGETS, Target
from pmq.runtimes.intake import Intake
from pmq.runtimes.profile import fingerprint


@dataclass(frozen=True)
class Predicted:
    """Latencies that a table predicts, in milliseconds: of the allocation, and of the same model in FP32."""

    latency_ms: float
    fp32_ms: float


@dataclass(frozen=True)
class DeployPlan:
    """Everything that the steps of a deployment need.

    Attributes:
        what: the allocation, ``fp32`` or a uniform shorthand.
        assignment: the choice of each component.
        runtime: the target.
        subject: the model, pruned as the allocation is.
        reference: FP32 model to compare with.
        images: images ``(N, C, H, W)`` to prove the file on.
        calibration: images ``(N, C, H, W)`` to calibrate on, or ``None``.
        intake: type and layout of the file's input, and its preprocessing.
        predicted: predicted latencies, or ``None`` without a latency table.
        out: folder to write to.
        threads: threads of the runtime when it is timed.
        dynamic_batch: whether the batch size stays open.
    """

    what: What
    assignment: Assignment
    runtime: Target
    subject: Subject
    reference: nn.Module
    images: Tensor
    calibration: Tensor | None
    intake: Intake
    predicted: Predicted | None
    out: Path
    threads: int
    dynamic_batch: bool

    @property
    def stem(self) -> str:
        """Common beginning of the names of the files."""
        return f"{architecture(self.subject.info.name)}-{self.runtime.name}"


def plan_deployment(
    model: nn.Module | str | None,
    what: What | Path,
    target: str,
    images: Tensor,
    out: Path | str,
    *,
    calibration_images: Tensor | None,
    latency: LatencyTable | None,
    reference: nn.Module | None,
    recalibrate: bool,
    dynamic_batch: bool,
    threads: int,
    crop_pct: float | None,
    task: str,
    partial: bool,
    data_config: Mapping[str, Any] | None,
    input: str,
    layout: str,
) -> DeployPlan:
    """Read and check what is to be deployed; see :func:`pmq.deploy` for the arguments.

    Raises:
        PmqError: an input is wrong; the message names it in one line.
    """
    runtime, out, what = TARGETS[target], named_path(out, "folder to write"), as_what(what)
    runtime.require()
    if dynamic_batch and not runtime.open_batch:
        raise PmqError(f"target {target!r} has no open batch size; deploy with `dynamic_batch=False`")
    images = as_images(images).cpu()
    like = what if isinstance(what, Allocation) and not recalibrate else None
    whole = runtime.whole or (isinstance(what, Allocation) and what.whole)
    norms = runtime.norms_written_out or (isinstance(what, Allocation) and what.norms_written_out)
    subject = Subject.of(model, "cpu", images, crop_pct, task_of(task, what), like, data_config, whole, norms)
    _check_outputs(subject, dynamic_batch)
    intake = Intake.of(input, layout, subject.info.data_config)
    if not runtime.takes_pixels and intake.values == "uint8":
        raise PmqError(f"target {target!r} quantizes prepared images itself; deploy with `input=float`")
    images = intake.representable(images)
    if calibration_images is not None:
        calibration_images = as_images(calibration_images).cpu()
        check_finite(subject.module, calibration_images)
    reference = subject.module if reference is None else take_in(reference, "cpu", images)
    if isinstance(what, Allocation):
        subject = shaped_like(subject, what, calibration_images if recalibrate else None)
    assignment = assignment_of(what, subject, target)
    runtime.check(assignment, subject.inventory)
    if what != "fp32":
        check_coverage(coverage(subject.inventory), partial or isinstance(what, Allocation))
    patches = what.patches if isinstance(what, Allocation) else None
    predicted = None if latency is None else _predicted(latency, runtime, threads, subject, assignment, patches)
    return DeployPlan(
        what=what,
        assignment=assignment,
        runtime=runtime,
        subject=subject,
        reference=reference,
        images=images,
        calibration=calibration_images,
        intake=intake,
        predicted=predicted,
        out=out,
        threads=threads,
        dynamic_batch=dynamic_batch,
    )


def assignment_of(what: What, subject: Subject, target: str) -> Assignment:
    """Return the choice of each component; shorthands take quantizers and pins from the target's own space.

    Shorthands of up to 8 bits for which that has no mode, such as ``w4a4``, take them from the target's ``packed_space``.

    Raises:
        PmqError: the allocation is of another model, or has bits of patches that can only be simulated.
    """
    if isinstance(what, Allocation):
        if what.patches is not None and what.patches.simulated:
            raise PmqError("these bits of single patches are simulated only; deploy the allocation without them")
        subject.inventory.check_names(what.components)
        return what.assignment
    if what == "fp32":
        return dict.fromkeys(subject.inventory.names, FLOAT)
    weight_bits, activation_bits = read_bits(what)
    file, wider = read_space(target), TARGETS[target].packed_space
    has_mode = (weight_bits, activation_bits) in {(mode.weight.bits, mode.input.bits) for mode in file.modes.values()}
    if wider is not None and not has_mode and max(weight_bits, activation_bits) <= 8:
        file = read_space(wider)
    return Space(file, subject.inventory, find_recipe("best").estimator).uniform(weight_bits, activation_bits)


def _check_outputs(subject: Subject, dynamic_batch: bool) -> None:
    if dynamic_batch and subject.model.closed:
        raise PmqError(
            "this model computes differently for other numbers of images, so its graph takes one; deploy with "
            "`dynamic_batch=False`"
        )
    if len(getattr(subject.module, "outputs_taken", ())) > 1:
        raise PmqError("a file has one output, but several outputs of this model were selected; select one of them")


def _predicted(
    latency: LatencyTable, runtime: Target, threads: int, subject: Subject, assignment: Assignment, patches: PatchMap | None
) -> Predicted:
    latency.check(fingerprint(runtime), target=runtime.name, threads=threads, batch_size=1)
    plan = plan_of(subject.module)
    milliseconds = CostModel(subject.inventory, latency, plan).costs(assignment, patches)["latency_ms"]
    plain = latency.whole_ms(dict.fromkeys(latency.layers, PLAIN))
    plain -= 0.0 if plan is None else latency.pruned_ms(dict.fromkeys(subject.inventory.names, FLOAT), plan)
    return Predicted(milliseconds, plain)
