"""The second step of a deployment: build the file, its simulation, and the FP32 model for the same runtime."""

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
from pmq.pipeline.quantize import RecipeQuantizer
from pmq.pipeline.subject import Subject
from pmq.pruning import plan_of
from pmq.quant import Quantized, Simulator, build_quantized_model, restore
from pmq.runtimes import Target
from pmq.runtimes.labels import TARGET, described
from pmq.runtimes.layer import DeployLayer, deploy_layers
from pmq.runtimes.operand import DeployOperand, deploy_operands, mark_operands
from pmq.runtimes.skipping import leave_out_tokens


@dataclass(frozen=True)
class Built:
    """A file that is written but not proved yet.

    Attributes:
        quantized: the quantized model.
        layers: the layers of the file.
        operands: its quantized operands of products of activations.
        files: the files written; the runtime opens the first.
        metadata: metadata stored in the file.
        others: runtime models that the file is timed against, by name.
        simulation: the simulated model.
        layerwise: the simulated model with all tokens, for the proof of single layers.
    """

    quantized: Quantized
    layers: list[DeployLayer]
    operands: list[DeployOperand]
    files: list[Path]
    metadata: dict[str, str]
    others: dict[str, Any]
    simulation: Simulator
    layerwise: Simulator


def build(plan: DeployPlan, recipe: str | Recipe, seed: int, recalibrate: bool) -> Built:
    """Quantize the model, and write it for the runtime under a name that marks it as not proved."""
    subject, runtime, intake = plan.subject, plan.runtime, plan.intake
    quantized = _quantized(plan, recipe, seed, recalibrate)
    restored = copy.deepcopy(subject.model)
    layers = deploy_layers(restored, subject.inventory, quantized, restore(restored, quantized))
    operands = deploy_operands(subject.inventory, quantized)
    mark_operands(restored, operands)
    names, example = [layer.name for layer in layers], torch.from_numpy(intake.fed(plan.images[:1]))
    unskipped = skeleton = whole = runtime.skeleton(intake.entered(restored), names, example, plan.dynamic_batch)
    if quantized.patches is not None:
        leave_out_tokens(restored, subject.inventory, quantized.patches)
        skeleton = runtime.skeleton(intake.entered(restored), names, example, plan.dynamic_batch)
    if subject.merging is not None:
        unmerged = replace(subject, merging=None).of_module(subject.module).model
        restore(unmerged, quantized)
        mark_operands(unmerged, operands)
        whole = runtime.skeleton(intake.entered(unmerged), names, example, plan.dynamic_batch)
    info, classes = subject.info, class_names(subject.module)
    metadata = described(info.data_config, info.num_classes, classes, subject.task.name, intake.values, intake.layout)
    metadata |= {TARGET: plan.runtime.name}
    path = plan.out / f"{plan.stem}.failed{runtime.suffix}"  # renamed once it is proved
    files = runtime.save(runtime.build(skeleton, layers, operands), path, metadata)
    others = {"fp32": runtime.build(unskipped, [layer.plain() for layer in layers])}
    others |= {} if whole is skeleton else {"whole": runtime.build(whole, layers, operands)}
    if plan_of(plan.reference) != plan_of(subject.module):
        others["unpruned"] = in_fp32(runtime, plan.reference, plan.images[:1])
    simulation = layerwise = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, quantized)
    if quantized.patches is not None:
        layerwise = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, replace(quantized, patches=None))
    return Built(quantized, layers, operands, files, metadata, others, simulation, layerwise)


def in_fp32(runtime: Target, model: nn.Module, image: Tensor) -> Any:
    """Build a model in FP32 for a runtime."""
    norms = runtime.norms_written_out
    subject = Subject.of(model, "cpu", image, whole=norms, norms=norms)
    layers = deploy_layers(subject.model, subject.inventory, plain(subject), {})
    return runtime.build(runtime.skeleton(subject.model, [layer.name for layer in layers], image), layers)


def _quantized(plan: DeployPlan, recipe: str | Recipe, seed: int, recalibrate: bool) -> Quantized:
    subject, what, calibration = plan.subject, plan.what, plan.calibration
    if isinstance(what, Allocation):
        if not recalibrate:
            return load_quantized(subject, what)
        return RecipeQuantizer(subject, calibration, seed, None).quantize(what.recipe, plan.assignment, what.patches)
    if what == "fp32":
        recipe, calibration = find_recipe("minmax"), torch.zeros(1, *subject.info.data_config["input_size"])
    return RecipeQuantizer(subject, calibration, seed, None).quantize(find_recipe(recipe), plan.assignment)
