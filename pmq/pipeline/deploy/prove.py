"""The third and fourth step of a deployment: measure the file, and prove that it computes what was simulated."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.task import Task
from pmq.cost import CostModel
from pmq.evaluation import Accuracy
from pmq.pipeline.deploy.build import Built
from pmq.pipeline.deploy.plan import DeployPlan
from pmq.quant import build_quantized_model
from pmq.runtimes import Session
from pmq.runtimes.images import load_image
from pmq.runtimes.labels import known_preprocess
from pmq.runtimes.loading import load_costs
from pmq.runtimes.proof import (
    Check,
    agreement_check,
    bits_check,
    latency_check,
    layer_errors,
    layers_check,
    operand_errors,
    operands_check,
    outputs_for,
    pictures_check,
    size_check,
)
from pmq.runtimes.speed import latencies

#: quantizers of activations whose levels are not even
UNEVEN = ("codebook", "log", "power", "relative")


@dataclass(frozen=True)
class Measured:
    """A file loaded in its runtime, with its latency.

    Attributes:
        session: the loaded file.
        speed: latencies in milliseconds, of the file and of the models it is timed against.
        load_ms, load_peak_bytes: time and memory to load the file.
    """

    session: Session
    speed: dict[str, float]
    load_ms: float
    load_peak_bytes: int | None


@dataclass(frozen=True)
class Proved:
    """The proof of a file.

    Attributes:
        proof: each part of the proof.
        size_bytes: size of the files.
        promised_bytes: size that the allocation promises.
        stored: bits of each layer, read back from the file.
        simulated: agreement and error of the file against its simulation.
        exact: agreement and error of the file against FP32.
        simulation: agreement and error of the simulation against FP32.
    """

    proof: dict[str, Check]
    size_bytes: int
    promised_bytes: float
    stored: dict[str, Any]
    simulated: dict[str, Any]
    exact: dict[str, Any]
    simulation: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every part of the proof passed."""
        return all(check.passed for check in self.proof.values())


def measure_file(plan: DeployPlan, built: Built, n_passes: int) -> Measured:
    """Load the file and time it in turns with the models it is compared with."""
    image, threads = plan.images[:1], plan.threads
    session, load_ms, load_peak_bytes = load_costs(lambda: plan.runtime.session(built.files[0], threads))
    running = {name: plan.runtime.session(other, threads) for name, other in built.others.items()}
    unprepared = {"unpruned": image.numpy()}
    sessions = {"file": session, **running}
    speed = latencies(sessions, plan.intake.fed(image), unprepared, plan.reference, image, threads, n_passes)
    return Measured(session, speed, load_ms, load_peak_bytes)


def prove(plan: DeployPlan, built: Built, measured: Measured, pictures: Sequence[Path | str]) -> Proved:
    """Compare the file with its simulation, by layers and by decisions, and with the promises of its allocation."""
    subject, quantized, runtime = plan.subject, built.quantized, plan.runtime
    stored, task = runtime.stored(built.files[0]), subject.task
    outputs = outputs_for(measured.session, (plan.intake.fed(image) for image in plan.images.split(1)))
    simulated, original = _outputs(built.simulation.model, plan.images), _outputs(plan.reference, plan.images)
    size = sum(path.stat().st_size for path in built.files)
    promised = CostModel(subject.inventory).size_bytes(quantized.assignment, quantized.patches)
    buffers = sum(b.numel() * b.element_size() for b in subject.model.buffers())
    uneven = sum(choice.quantizer in UNEVEN for choice in quantized.assignment.values())
    allowed = runtime.graph_bytes + uneven * runtime.operand_bytes + buffers
    against_simulation = _compared(simulated, outputs, task)
    proof = {
        "layers": layers_check(layer_errors(runtime, built.layers, built.layerwise, plan.images[:1], plan.threads)),
        "agreement": _agreement(plan, built, simulated, against_simulation),
        **_operands(plan, built),
        "bits": bits_check(stored, quantized.assignment, subject.inventory),
        "size": size_check(size, promised, allowed),
    }
    if pictures and (preparation := known_preprocess(built.metadata, built.files[0])) is not None:
        of_pictures = outputs_for(measured.session, (load_image(Path(picture), preparation) for picture in pictures))
        proof["pictures"] = pictures_check(_compared(outputs[: len(of_pictures)], of_pictures, task), len(of_pictures))
    if plan.predicted is not None:
        times, predicted = measured.speed, plan.predicted
        proof["latency"] = latency_check(times["latency_ms"], times["fp32_latency_ms"], predicted.latency_ms, predicted.fp32_ms)
    exact, simulation = _compared(original, outputs, task), _compared(original, simulated, task)
    return Proved(proof, size, promised, stored, against_simulation, exact, simulation)


def _agreement(plan: DeployPlan, built: Built, simulated: Tensor, metrics: dict[str, Any]) -> Check:
    """Return the part of the proof about decisions, which allows for what float rounding alone changes in the simulation."""
    check = agreement_check(metrics, len(plan.images))
    if check.passed:
        return check
    subject = plan.subject
    reordered = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, built.quantized, integers=False)
    itself = _compared(simulated, _outputs(reordered.model, plan.images), subject.task)
    return agreement_check(metrics, len(plan.images), itself)


def _operands(plan: DeployPlan, built: Built) -> dict[str, Check]:
    """Return the part of the proof about operands of products of activations, if any are quantized."""
    if not built.operands:
        return {}
    errors = operand_errors(plan.runtime, built.operands, built.layerwise, plan.images[:1], plan.threads)
    return {"operands": operands_check(errors)}


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(x) for x in images.split(16)])


def _compared(reference: Tensor, output: Tensor, task: Task) -> dict[str, Any]:
    """Return agreement and KL (or feature error) of outputs ``(N, C)``."""
    total = Accuracy(task=task)
    total.update(reference, output, None)
    return total.compute()
