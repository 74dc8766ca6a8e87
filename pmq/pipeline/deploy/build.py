"""The file of a deployment, and what it is compared with: its simulation, and the model in FP32 in the same runtime."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core import Allocation
from pmq.core.recipe import Recipe, find_recipe
from pmq.models import class_names
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.deploy.plan import DeployPlan
from pmq.pipeline.pruned_model import plain
from pmq.pipeline.quantize import Fresh
from pmq.pipeline.subject import Subject
from pmq.pruning import plan_of
from pmq.quant import Quantized, Simulator, build_quantized_model, restore
from pmq.runtimes import Target
from pmq.runtimes.labels import TARGET, described
from pmq.runtimes.layer import DeployLayer, deploy_layers
from pmq.runtimes.skipping import leave_out_tokens


@dataclass(frozen=True)
class Built:
    """A file that is written, but not proved yet.

    Attributes:
        quantized: what the allocation makes of the model.
        layers: what the file holds, layer by layer.
        files: those written, the first of which is opened.
        metadata: what the file says of itself.
        others: models that the file is timed against, by name.
        simulation: the model as simulated; ``layerwise`` the same with all tokens, as layers are proved.
    """

    quantized: Quantized
    layers: list[DeployLayer]
    files: list[Path]
    metadata: dict[str, str]
    others: dict[str, Any]
    simulation: Simulator
    layerwise: Simulator


def build(plan: DeployPlan, recipe: str | Recipe, seed: int, recalibrate: bool) -> Built:
    """Quantize the model, and write it for the runtime under a name that says it is not proved."""
    subject, runtime, intake = plan.subject, plan.runtime, plan.intake
    quantized = _quantized(plan, recipe, seed, recalibrate)
    restored = copy.deepcopy(subject.model)
    layers = deploy_layers(restored, subject.inventory, quantized, restore(restored, quantized))
    names, example = [layer.name for layer in layers], torch.from_numpy(intake.fed(plan.images[:1]))
    whole = skeleton = runtime.skeleton(intake.entered(restored), names, example, plan.dynamic_batch)
    if quantized.patches is not None:
        leave_out_tokens(restored, subject.inventory, quantized.patches)
        skeleton = runtime.skeleton(intake.entered(restored), names, example, plan.dynamic_batch)
    info, classes = subject.info, class_names(subject.module)
    metadata = described(info.data_config, info.num_classes, classes, subject.task.name, intake.values, intake.layout)
    metadata |= {TARGET: plan.runtime.name}
    path = plan.out / f"{plan.stem}.failed{runtime.suffix}"  # until it is proved
    files = runtime.save(runtime.build(skeleton, layers), path, metadata)
    others = {"fp32": runtime.build(whole, [layer.plain() for layer in layers])}
    others |= {} if whole is skeleton else {"whole": runtime.build(whole, layers)}
    if plan_of(plan.reference) != plan_of(subject.module):
        others["unpruned"] = in_fp32(runtime, plan.reference, plan.images[:1])
    simulation = layerwise = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, quantized)
    if quantized.patches is not None:
        layerwise = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, replace(quantized, patches=None))
    return Built(quantized, layers, files, metadata, others, simulation, layerwise)


def in_fp32(runtime: Target, model: nn.Module, image: Tensor) -> Any:
    """Build a model as it is for a runtime."""
    subject = Subject.of(model, "cpu", image)
    layers = deploy_layers(subject.model, subject.inventory, plain(subject), {})
    return runtime.build(runtime.skeleton(subject.model, [layer.name for layer in layers], image), layers)


def _quantized(plan: DeployPlan, recipe: str | Recipe, seed: int, recalibrate: bool) -> Quantized:
    subject, what, calibration = plan.subject, plan.what, plan.calibration
    if isinstance(what, Allocation):
        if not recalibrate:
            return load_quantized(subject, what)
        return Fresh(subject, calibration, seed, None).quantize(what.recipe, plan.assignment, what.patches)
    if what == "fp32":
        recipe, calibration = find_recipe("minmax"), torch.zeros(1, *subject.info.data_config["input_size"])
    return Fresh(subject, calibration, seed, None).quantize(find_recipe(recipe), plan.assignment)
