"""Proof that a file computes what was simulated: layer by layer, as a whole, by its bits, its size and its speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from pmq.core.choice import FLOAT, Assignment
from pmq.core.component import Inventory
from pmq.core.progress import track
from pmq.cost.latency import layer_key
from pmq.quant import Simulator
from pmq.runtimes.base import Target
from pmq.runtimes.layer import DeployLayer
from pmq.runtimes.session import Session

#: largest error of a layer, in steps of 1/255 of its output's range: an input that lies between two integers may go
#: either way, which is no more than one step of the input
STEPS = 1.0
#: range, as share of the largest value, that an output is taken to have at least: one that does not vary is known to rounding
FLAT = 1e-3
#: least agreement with the simulation, in percent: flipped roundings compound from layer to layer
AGREEMENT = 95.0
#: a file may be so much larger than promised, beside what its graph takes
SIZE = 0.01
#: relative difference of measured and predicted latency, as shares of FP32's
LATENCY = 0.1


class Check(BaseModel):
    """One part of the proof: what was found, what is allowed, and how the figures came about."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    passed: bool
    found: float
    limit: float
    what: str


@torch.no_grad()
def layer_errors(
    target: Target, layers: list[DeployLayer], simulator: Simulator, image: Tensor, threads: int = 1
) -> dict[str, float]:
    """Largest error of each quantized layer, alone in the runtime, against its simulation on the same input.

    Inputs are those the simulated model has on ``image`` ``(1, C, H, W)``. In steps of 1/255 of the output's range.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: seen.__setitem__(name, (args[0].clone(), output.clone()))

    handles = [simulator.instrument.layer(f"{layer.name}.weight").register_forward_hook(keep(layer.name)) for layer in layers]
    try:
        simulator.model(image)
    finally:
        for handle in handles:
            handle.remove()
    errors = {}
    for layer in track([x for x in layers if not (x.weight.is_fp32 and x.source.is_fp32)], "proving layers"):
        x, wanted = seen[layer.name]
        session = target.session(target.build(target.single(layer, tuple(x.shape)), [layer]), threads)
        spread = max(float(wanted.max() - wanted.min()), FLAT * float(wanted.abs().max()))
        step = spread / 255
        errors[layer.name] = float(np.abs(session(x.numpy()) - wanted.numpy()).max()) / max(step, 1e-12)
    return errors


def layers_check(errors: Mapping[str, float]) -> Check:
    """Whether every layer alone computes what was simulated."""
    worst = max(errors, key=lambda name: errors[name]) if errors else ""
    said = f"largest error of {len(errors)} quantized layers alone, in steps of 1/255 of the output's range ({worst})"
    return Check(passed=all(e <= STEPS for e in errors.values()), found=errors.get(worst, 0.0), limit=STEPS, what=said)


def bits_check(stored: Mapping[str, str], assignment: Assignment, inventory: Inventory) -> Check:
    """Whether the file holds the bits that were allocated."""
    wanted = {
        c.module: layer_key(assignment[c.name], assignment.get(f"{c.module}.input", FLOAT))
        for c in inventory
        if c.slot == "weight"
    }
    other = sorted(n for n in wanted.keys() | stored.keys() if wanted.get(n) != stored.get(n))
    said = f"layers of {len(wanted)} whose bits, read off the file, are not those allocated" + "".join(
        f", {n}" for n in other[:3]
    )
    return Check(passed=not other, found=len(other), limit=0, what=said)


def size_check(found: int, promised: float, graph: int) -> Check:
    """Whether the file is as small as promised; ``graph`` bytes are for what is no parameter: operators, names, masks."""
    limit = (1 + SIZE) * promised + graph
    said = f"bytes on disk; {promised:.0f} promised, {SIZE:.0%} and {graph} for graph and masks allowed"
    return Check(passed=found <= limit, found=found, limit=limit, what=said)


def latency_check(measured: float, fp32_measured: float, predicted: float, fp32_predicted: float) -> Check:
    """Whether the file is as fast as predicted, both as shares of the FP32 model's time, measured in turns with it.

    A machine that is slower now than when the table was measured is slower for both.
    """
    off = (measured / fp32_measured) / (predicted / fp32_predicted) - 1
    said = f"share of FP32's time, measured over predicted, less one ({measured:.3f} of {fp32_measured:.3f} ms"
    said += f", predicted {predicted:.3f} of {fp32_predicted:.3f})"
    return Check(passed=abs(off) <= LATENCY, found=off, limit=LATENCY, what=said)


def outputs_of(session: Session, images: Tensor) -> Tensor:
    """Outputs ``(N, C)`` of a session that takes one prepared image at a time."""
    return outputs_for(session, (image.numpy() for image in images.split(1)))


def outputs_for(session: Session, images: Iterable[NDArray[Any]]) -> Tensor:
    """Outputs ``(N, C)`` of a session for what it is given, image by image."""
    found = [session(x) for x in track(list(images), "running the file")]
    return torch.from_numpy(np.concatenate(found).astype(np.float32))


def pictures_check(metrics: Mapping[str, Any], n_pictures: int) -> Check:
    """Whether the file decides on picture files, as ``pmq run`` prepares them, as on the images that were given for them."""
    if metrics["agreement"] is None:
        error = float(metrics["feature_error"] or 0.0)
        return Check(passed=error <= 1e-3, found=error, limit=1e-3, what=f"relative error on {n_pictures} picture files")
    said = f"of {n_pictures} picture files, as pmq run prepares them, decided as the images given for them, percent"
    return Check(passed=metrics["agreement"] == 100, found=metrics["agreement"], limit=100.0, what=said)


def agreement_check(metrics: Mapping[str, Any], n_images: int) -> Check:
    """Whether the file decides as the simulation does; for features, whether they differ by little."""
    if metrics["agreement"] is None:
        error = float(metrics["feature_error"] or 0.0)
        return Check(passed=error <= 0.05, found=error, limit=0.05, what=f"relative feature error on {n_images} images")
    said = f"agreement with the simulation on {n_images} images, percent (KL {metrics['kl']:.2g})"
    return Check(passed=metrics["agreement"] >= AGREEMENT, found=metrics["agreement"], limit=AGREEMENT, what=said)
