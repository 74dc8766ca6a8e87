"""Pruned models: rebuilt from a file, or pruned as an allocation is."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pmq.core import FLOAT, Allocation, PmqError
from pmq.core.files import is_dir, is_file
from pmq.core.manifest import known_manifest
from pmq.core.pruning import PruningPlan
from pmq.core.recipe import find_recipe
from pmq.core.run_files import CHOSEN, unchanged
from pmq.core.task import Task
from pmq.models import create_model, model_info
from pmq.models.create import check_named
from pmq.models.sources import is_elsewhere
from pmq.models.weights import both_file, fill_module
from pmq.pipeline.intake import take_in
from pmq.pipeline.subject import Subject
from pmq.pipeline.torch_modes import undisturbed
from pmq.pruning import apply_plan, find_units, least_squares_reconstruction, plan_of, rotate_to_principal_axes
from pmq.pruning.losses import RowWeights, row_weights
from pmq.quant import Quantized


@undisturbed
def load_pruned(
    what: Allocation | Path | str,
    model: nn.Module | str | None = None,
    options: Mapping[str, Any] | None = None,
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """Rebuild a pruned model in FP32 from the allocation, file or folder that :func:`pmq.prune` returned or wrote.

    No checkpoint is needed.

    Args:
        what: the allocation, its file, or its folder.
        model: an unpruned model of the same architecture with any weights, or a name that creates one; needed where the name
            in the file is not enough to build the model.
        options: further arguments of the model, as of :func:`pmq.create_model`.
        input_size: channels, height and width, as of :func:`pmq.create_model`.

    Raises:
        PmqError: ``what`` is no pruned model, has bits already, or its tensors are missing.

    Example:
        >>> import torch, pmq
        >>> pruned = pmq.prune(None, torch.randn(16, 1, 28, 28), ratio=0.25, importance="magnitude")
        >>> load_pruned(pruned.allocation).blocks[0].mlp.fc1.out_features
        288
    """
    allocation = what if isinstance(what, Allocation) else Allocation.load(_file(Path(what)))
    plan, info = allocation.pruning, allocation.model
    if plan is None:
        name = "the allocation" if isinstance(what, Allocation) else repr(str(what))
        is_folder = not isinstance(what, Allocation) and is_dir(Path(what))
        hint = "the folder of a search; rename it if you mean a model of that name" if is_folder else "`pmq prune` writes one"
        raise PmqError(f"{name} is no pruned model{' but ' if is_folder else '; '}{hint}")
    if not all(choice.is_fp32 for choice in allocation.components.values()):
        raise PmqError(f"{str(what)!r} has bits already; give the pruned model in FP32 that `pmq prune` wrote")
    if allocation.tensors is None:
        raise PmqError(f"the .safetensors file beside {str(what)!r} is missing; put it there, or prune again")
    if model is None or isinstance(model, str):
        name = check_named(info.name) if model is None else model
        classes = None if is_elsewhere(name) else info.num_classes  # the user's function sets its own number
        unpruned = create_model(name, num_classes=classes, pretrained=False, options=options, input_size=input_size)
    else:
        unpruned = take_in(model, like=info)
    model = apply_plan(unpruned, plan, info.weights_sha256)
    fill_module(model, allocation.tensors.arrays())
    return model


def is_pruned_file(name: str) -> bool:
    """Return whether ``name`` is a file or a run directory instead of a model's name."""
    path = Path(name)
    return (is_file(path) and path.suffix == ".json") or is_file(path / CHOSEN)


def _file(path: Path) -> Path:
    if not is_dir(path):
        return path
    return unchanged(path, known_manifest(path).files, CHOSEN) or path / CHOSEN


def plain(subject: Subject) -> Quantized:
    """Return the model in FP32 in the form of a quantized model."""
    all_fp32 = dict.fromkeys(subject.inventory.names, FLOAT)
    return Quantized(all_fp32, find_recipe("minmax"), {}, both_file(subject.module, subject.model))


def shaped_like(subject: Subject, allocation: Allocation, images: Tensor | None = None) -> Subject:
    """Return the subject pruned and with tokens merged by an allocation's plans, and reconstructed on ``images`` if given.

    Without images the remaining weights are those of the checkpoint, for an allocation that has its own tensors.

    Raises:
        PmqError: the allocation is of another model, or the subject is pruned by another plan.
    """
    allocation.check_model(subject.info)
    present, plan = plan_of(subject.module), allocation.pruning
    if present is not None:
        if plan is None or plan.digest != present.digest:
            raise PmqError(
                "the allocation is of another pruned model; pass the unpruned model, or the pruned model of this allocation"
            )
        return subject.merged(allocation.merging)
    pruned = subject if plan is None else subject.of_module(pruned_copy(subject.module, plan, images, subject.task))
    return pruned.merged(allocation.merging)


def pruned_copy(model: nn.Module, plan: PruningPlan, images: Tensor | None, task: Task, seed: int = 0) -> nn.Module:
    """Prune a copy; on ``images`` ``(N, C, H, W)``, if given, rotate its heads and reconstruct it where the plan says so."""
    mixed, units = copy.deepcopy(model), [unit for unit in find_units(model).units if unit.name in plan.units]
    if images is None:
        return apply_plan(mixed, plan)
    weights = row_weights(model, [unit.last for unit in units], images, task, seed)
    if plan.ranked:
        rotate_to_principal_axes(mixed, [unit for unit in units if unit.can_mix], images, weights)
    return carved(mixed, plan, model_info(model).weights_sha256, images, weights)


def carved(mixed: nn.Module, plan: PruningPlan, pruned_from: str, images: Tensor, weights: RowWeights) -> nn.Module:
    """Prune a copy of a model, and reconstruct it by least squares where the plan says so.

    Args:
        mixed: the model, with heads rotated if the plan ranks rotated channels.
        plan: the channels to keep.
        pruned_from: hash of the weights before heads were rotated.
        images: images ``(N, C, H, W)`` to reconstruct on.
        weights: weights of the rows of the layers that read the remaining channels.
    """
    pruned = apply_plan(copy.deepcopy(mixed), plan, pruned_from)
    if plan.recovered:
        least_squares_reconstruction(mixed, pruned, plan, images, weights)
    return pruned
