"""Checks that a file computes what was simulated: layer by layer, as a whole, by its bits, its size and its speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pmq.core.choice import FLOAT, Assignment
from pmq.core.component import Component, Inventory
from pmq.core.progress import track
from pmq.cost.latency import layer_key
from pmq.graph import TapFunction
from pmq.quant import Simulator
from pmq.runtimes.base import Target
from pmq.runtimes.layer import DeployLayer
from pmq.runtimes.operand import DeployOperand
from pmq.runtimes.recorded import record_layers
from pmq.runtimes.session import Session

#: maximum error of a layer, in steps of 1/255 of its output's range: an input between two integers may be rounded either
#: way, which changes it by at most one step of the input
STEPS = 1.0
#: minimum assumed range of an output, as a share of its largest value: an almost constant output is exact up to rounding
FLAT = 1e-3
#: maximum share of an operand's values, in percent, that lie so close to the middle of two levels that either may be taken
ROUNDED = 0.1
#: maximum difference of equal levels, as a share of the largest value
SAME = 1e-5
#: maximum difference of levels of 16 bits that float rounding explains, in steps
NEXT = 1.5
#: minimum agreement with the simulation, in percent: flipped roundings accumulate from layer to layer
AGREEMENT = 95.0
#: maximum relative error of features
ERROR = 0.05
#: factor on the differences between two simulations that sum in different orders, which a file may have as well: a runtime also
#: computes softmax, GELU and norms in its own order
AMPLIFIED = 3.0
#: relative excess over the promised size that is allowed in addition to the graph's bytes
SIZE = 0.01
#: maximum relative difference of measured and predicted latency, both as shares of FP32's
LATENCY = 0.1


class Check(BaseModel):
    """One part of the proof: the measured value (``found`` in JSON), the limit, and a description of both."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    passed: bool
    measured: float = Field(alias="found")
    limit: float
    what: str


@torch.no_grad()
def layer_errors(
    target: Target, layers: list[DeployLayer], simulator: Simulator, image: Tensor, threads: int = 1
) -> dict[str, float]:
    """Return the largest error of each quantized layer, run alone in the runtime, against its simulation on the same input.

    Inputs are those of the simulated model on ``image`` ``(1, C, H, W)``; errors are in steps of 1/255 of the output's range.
    """
    recorded, _ = record_layers(simulator, [layer.name for layer in layers], image)
    errors = {}
    for layer in track([x for x in layers if not (x.weight.is_fp32 and x.source.is_fp32)], "proving layers"):
        x, expected = recorded[layer.name][-1]
        session = target.session(target.build(target.single(layer, tuple(x.shape)), [layer]), threads)
        spread = max(float(expected.max() - expected.min()), FLAT * float(expected.abs().max()))
        step = spread / 255
        if target.quantizes_results and layer.result is not None:
            quantizer = simulator.quantizer(simulator.inventory[layer.result.name], layer.result.choice)
            # the middle of two levels may be rounded either way
            expected, step = quantizer(expected), max(step, float(layer.result.parameters["scale"].max()) * (1 + SAME))
        errors[layer.name] = float(np.abs(session(x.numpy()) - expected.numpy()).max()) / max(step, 1e-12)
    return errors


@torch.no_grad()
def operand_errors(
    target: Target, operands: list[DeployOperand], simulator: Simulator, image: Tensor, threads: int = 1
) -> dict[str, float]:
    """Return the share of each operand's values, in percent, to which the runtime gives another level than the simulation.

    Each operand is quantized alone in the runtime, from its values in the simulated model on ``image`` ``(1, C, H, W)``.
    """
    recorded: dict[str, tuple[Tensor, Tensor]] = {}

    def recorder(operand: DeployOperand) -> TapFunction:
        quantizer = simulator.quantizer(simulator.inventory[operand.name], operand.choice)

        def record(x: Tensor) -> Tensor:
            recorded[operand.name] = x.clone(), quantizer(x)
            return recorded[operand.name][1]

        return record

    for operand in operands:
        simulator.set_activation(operand.name, recorder(operand))
    try:
        simulator.model(image)
    finally:
        for operand in operands:
            simulator.reset(operand.name)
    errors = {}
    for operand in track(operands, "proving operands"):
        x, expected = recorded[operand.name]
        session = target.session(target.build(target.single_operand(operand, tuple(x.shape)), [], [operand]), threads)
        same = SAME * float(expected.abs().max())
        if operand.choice.bits > 8:  # neighbouring levels of 16 bits are as close as rounding of floats
            same = max(same, NEXT * float(operand.parameters["scale"].max()))
        other = np.abs(session(x.numpy()) - expected.numpy()) > same
        errors[operand.name] = 100 * float(other.mean())
    return errors


def operands_check(errors: Mapping[str, float]) -> Check:
    """Check that almost all values of every operand, quantized alone, have the level that was simulated."""
    worst = max(errors, key=lambda name: errors[name])
    what = f"largest share of an operand's values with another level than simulated, of {len(errors)} operands, percent ({worst})"
    return Check(passed=errors[worst] <= ROUNDED, measured=errors[worst], limit=ROUNDED, what=what)


def layers_check(errors: Mapping[str, float]) -> Check:
    """Check that every layer, run alone, computes what was simulated."""
    worst = max(errors, key=lambda name: errors[name]) if errors else ""
    what = f"largest error of {len(errors)} quantized layers alone, in steps of 1/255 of the output's range ({worst})"
    return Check(passed=all(e <= STEPS for e in errors.values()), measured=errors.get(worst, 0.0), limit=STEPS, what=what)


def bits_check(stored: Mapping[str, str], assignment: Assignment, inventory: Inventory) -> Check:
    """Check that the file stores the bits that were allocated."""
    expected = {
        c.module: layer_key(assignment[c.name], assignment.get(inventory.source_of(c.module), FLOAT))
        for c in inventory
        if c.slot == "weight"
    }
    expected |= {c.name: assignment[c.name].label for c in inventory if _is_quantized_operand(c, assignment)}
    other = sorted(n for n in expected.keys() | stored.keys() if expected.get(n) != stored.get(n))
    what = f"layers and operands of {len(expected)} whose bits, read from the file, are not those allocated" + "".join(
        f", {n}" for n in other[:3]
    )
    return Check(passed=not other, measured=len(other), limit=0, what=what)


def _is_quantized_operand(component: Component, assignment: Assignment) -> bool:
    """Return whether a file states the bits of a component by an operator of its own; constants hold their values there."""
    if component.slot == "tensor":
        return not component.fixed and not assignment[component.name].is_fp32
    return component.slot not in ("weight", "input") and assignment[component.name].bits <= 8


def size_check(size_bytes: int, promised: float, graph: int) -> Check:
    """Check that the file is as small as promised; ``graph`` bytes are allowed for operators, names and masks."""
    limit = (1 + SIZE) * promised + graph
    what = f"bytes on disk; {promised:.0f} promised, {SIZE:.0%} and {graph} for graph and masks allowed"
    return Check(passed=size_bytes <= limit, measured=size_bytes, limit=limit, what=what)


def latency_check(measured: float, fp32_measured: float, predicted: float, fp32_predicted: float) -> Check:
    """Check that the file is as fast as predicted, both as shares of the FP32 model's time, measured interleaved with it.

    Shares cancel a change of the machine's speed since the table was measured.
    """
    off = (measured / fp32_measured) / (predicted / fp32_predicted) - 1
    what = f"share of FP32's time, measured over predicted, minus one ({measured:.3f} of {fp32_measured:.3f} ms"
    what += f", predicted {predicted:.3f} of {fp32_predicted:.3f})"
    return Check(passed=abs(off) <= LATENCY, measured=off, limit=LATENCY, what=what)


def outputs_of(session: Session, images: Tensor) -> Tensor:
    """Return the outputs ``(N, C)`` of a session for prepared images, which it takes one at a time."""
    return outputs_for(session, (image.numpy() for image in images.split(1)))


def outputs_for(session: Session, images: Iterable[NDArray[Any]]) -> Tensor:
    """Return the outputs ``(N, C)`` of a session for ``images`` in its input format, one image at a time."""
    outputs = [session(x) for x in track(list(images), "running the file")]
    return torch.from_numpy(np.concatenate(outputs).astype(np.float32))


def pictures_check(metrics: Mapping[str, Any], n_pictures: int) -> Check:
    """Check that the file decides equally on picture files prepared by ``pmq run`` and on the images passed for them."""
    if metrics["agreement"] is None:
        error = float(metrics["feature_error"] or 0.0)
        return Check(passed=error <= 1e-3, measured=error, limit=1e-3, what=f"relative error on {n_pictures} picture files")
    what = f"picture files of {n_pictures}, as pmq run prepares them, decided as the images passed for them, percent"
    return Check(passed=metrics["agreement"] == 100, measured=metrics["agreement"], limit=100.0, what=what)


def agreement_check(metrics: Mapping[str, Any], n_images: int, itself: Mapping[str, Any] | None = None) -> Check:
    """Check that the file decides as the simulation does; for features, that the relative error is small.

    A network of few bits amplifies float rounding: a sum that differs in the last place flips an activation by a whole step,
    and that flips others. ``itself`` compares the simulation with itself, multiplied in FP32 instead of in integers; a file may
    differ from the simulation by :data:`AMPLIFIED` times as much.
    """
    what, comparison = f"relative feature error on {n_images} images", ""
    if metrics["agreement"] is None:
        error, limit = float(metrics["feature_error"] or 0.0), ERROR
        if itself is not None:
            limit = max(limit, AMPLIFIED * float(itself["feature_error"] or 0.0))
            comparison = f"; the simulation summed in another order: {itself['feature_error']:.2g}"
        return Check(passed=error <= limit, measured=error, limit=limit, what=what + comparison)
    limit = AGREEMENT
    if itself is not None:
        limit = min(limit, 100 - AMPLIFIED * (100 - itself["agreement"]))
        comparison = f"; the simulation summed in another order: {itself['agreement']:.2f} (KL {itself['kl']:.2g})"
    what = f"agreement with the simulation on {n_images} images, percent (KL {metrics['kl']:.2g}){comparison}"
    return Check(passed=metrics["agreement"] >= limit, measured=metrics["agreement"], limit=limit, what=what)
