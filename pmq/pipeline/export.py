"""The steps of an export to the format of another tool: read and check, give the model its quantized weights, fit, write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from pmq.core import Allocation, PmqError
from pmq.core.files import is_dir, quoted
from pmq.core.progress import message
from pmq.core.run_files import check_output
from pmq.core.spec import What, as_what
from pmq.core.task import AUTO
from pmq.exports import FORMATS, Format
from pmq.exports.fit import Fitted, check_unsupported, fit, summary
from pmq.exports.tensor import ExportModel, quantized_tensors
from pmq.models.equivalence import TOLERANCE, relative_error
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.pruned_model import shaped_like
from pmq.pipeline.subject import Subject
from pmq.quant import Quantized, restore
from pmq.runtimes.layer import deploy_layers

#: the allocation's own format
JSON = "json"
_OPTIONS = "pass `unsupported=widen` to give them wider grids where there are any, or `unsupported=skip` to leave them in FP32"


def format_of(name: str) -> Format | None:
    """Return a format by its name; None for the allocation's own.

    Raises:
        PmqError: the name is unknown.
    """
    if name not in (JSON, *FORMATS):
        raise PmqError(f"format {name!r} is not one of {', '.join((JSON, *FORMATS))}")
    return None if name == JSON else FORMATS[name]


def read_allocation(what: What | Path) -> Allocation:
    """Return the allocation of a file or a run.

    Raises:
        PmqError: it is none, or a shorthand.
    """
    allocation = as_what(what)
    if isinstance(allocation, str):
        raise PmqError(f"{str(what)!r} is a shorthand; export takes an allocation file or a run directory")
    return allocation


def check_file(form: Format, path: Path, what: What | Path) -> None:
    """Raise, before any work is done, if the files of a format cannot be written."""
    if form.is_folder and is_dir(path):
        raise PmqError(f"cannot write {quoted(path)}: it exists; remove it, or choose another name with `out`")
    sources = [] if isinstance(what, Allocation) else [what]
    check_output(path, form.suffix, sources, form.beside)


def export_model(model: nn.Module | str | None, allocation: Allocation) -> ExportModel:
    """Return the model with quantized weights and its quantized tensors.

    Raises:
        PmqError: the allocation is of another model, or its tensors are missing.
    """
    if allocation.tensors is None and (allocation.pruning is not None or not allocation.recipe.plain):
        raise PmqError("the .safetensors file that was written beside the allocation is missing; put it there to export it")
    subject = Subject.of(model, "cpu", task=allocation.task or AUTO, like=allocation)
    if subject.info.weights_sha256 != allocation.model.weights_sha256:
        raise PmqError(f"the allocation is of other weights of {allocation.model.name!r} than these; pass their checkpoint")
    subject = shaped_like(subject, allocation)
    quantized = replace(load_quantized(subject, allocation), patches=None)
    layers = deploy_layers(subject.model, subject.inventory, quantized, restore(subject.model, quantized))
    by_name = {layer.name: layer for layer in layers}
    components = {component.name: component for component in subject.inventory}
    module = None if allocation.pruning is not None else _with_quantized_weights(subject, quantized)
    return ExportModel(subject.info, module, subject.model, by_name, quantized_tensors(components, quantized, by_name))


@torch.no_grad()
def _with_quantized_weights(subject: Subject, quantized: Quantized) -> nn.Module | None:
    """Return the module, which shares its parameters with the restored graph; None if it does not compute the same."""
    module, added = subject.module, []
    for name, layer in subject.model.tapped.items():
        original = module.get_submodule(name) if name in dict(module.named_modules()) else None
        bias = getattr(layer, "bias", None)
        if isinstance(original, nn.Linear | nn.Conv2d) and original.bias is None and bias is not None:
            original.bias = bias
            added.append(name)
    images = torch.randn(2, *subject.info.data_config["input_size"], generator=torch.Generator().manual_seed(0))
    if relative_error(subject.model(images), module(images)) > TOLERANCE:
        return None
    if added:
        names = ", ".join(added[:3]) + (", ..." if len(added) > 3 else "")
        message(
            f"the recipe gave {len(added)} layers a bias that they lack ({names}); add one to each before loading the weights"
        )
    return module


def fitted(form: Format, model: ExportModel, allocation: Allocation, unsupported: str) -> Fitted:
    """Return the grids that a format will hold, and report what it cannot express.

    Raises:
        PmqError: the format cannot express a part of the allocation, and ``unsupported`` is ``refuse``; or it cannot express it
            at all.
    """
    if form.reads_module and model.module is None:
        why = "the transformed weights do not fit into it" if allocation.pruning is None else "the allocation prunes it"
        others = ", ".join(name for name in FORMATS if not FORMATS[name].reads_module)
        raise PmqError(f"format {form.name!r} is read into the model's own module, but {why}; use one of {others}")
    result = fit(model.tensors, form.holds_all(model), unsupported)
    total = len(model.tensors)
    if not result.grids and not result.dynamic and unsupported != "refuse":
        raise PmqError(f"format {form.name!r} can express none of {total} components: {summary(result.reasons, result.left_out)}")
    if unsupported == "refuse":
        if allocation.patches is not None:
            raise PmqError(
                f"format {form.name!r} cannot express bits of single patches; pass `unsupported=skip` to leave them out"
            )
        if result.reasons:
            reasons = summary(result.reasons, list(result.reasons))
            raise PmqError(
                f"format {form.name!r} cannot express {len(result.reasons)} of {total} components: {reasons}; {_OPTIONS}"
            )
    _report(form, result, total, allocation)
    return result


def _report(form: Format, result: Fitted, total: int, allocation: Allocation) -> None:
    if allocation.patches is not None:
        message("left out: bits of single patches; each token has the bits of its component")
    if result.widened:
        names = [name for name in result.reasons if name in result.widened]
        message(f"widened {len(names)} of {total} components: {summary(result.reasons, names)}")
    if result.left_out:
        message(f"left in FP32: {len(result.left_out)} of {total} components: {summary(result.reasons, result.left_out)}")
    message(f"{form.tool} holds {total - len(result.reasons)} of {total} quantized components as they are")


__all__ = ["JSON", "check_file", "check_unsupported", "export_model", "fitted", "format_of", "read_allocation"]
