"""Pruned models: rebuilt from a name and a plan, or made of the model that an allocation was pruned from."""

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
from pmq.pipeline.modes import undisturbed
from pmq.pipeline.subject import Subject, take_in
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
    """Rebuild a pruned model in FP32 from the file that :func:`pmq.prune` wrote, or from what it gave.

    No checkpoint is needed. ``model`` is one of the same architecture, with any weights, or the name of what makes one, where
    the file's own name does not tell all that it was built with, or names a place or a function. Or ``options`` and
    ``input_size`` say that, as of :func:`pmq.create_model`.

    Raises:
        PmqError: it is no pruned model, its bits are chosen already, or its tensors are missing.

    Example:
        >>> import torch, pmq
        >>> found = pmq.prune(None, torch.randn(16, 1, 28, 28), ratio=0.25, importance="magnitude")
        >>> load_pruned(found.allocation).blocks[0].mlp.fc1.out_features
        288
    """
    allocation = what if isinstance(what, Allocation) else Allocation.load(_file(Path(what)))
    plan, info = allocation.pruning, allocation.model
    if plan is None:
        name = "the allocation" if isinstance(what, Allocation) else repr(str(what))
        other = not isinstance(what, Allocation) and is_dir(Path(what))
        meant = "the folder of a search; rename it if you mean a model of that name" if other else "`pmq prune` writes one"
        raise PmqError(f"{name} is no pruned model{' but ' if other else '; '}{meant}")
    if not all(choice.is_fp32 for choice in allocation.components.values()):
        raise PmqError(f"{str(what)!r} has bits already; give the pruned model in FP32 that `pmq prune` wrote")
    if allocation.tensors is None:
        raise PmqError(f"the .safetensors file beside {str(what)!r} is missing; put it there, or prune anew")
    if model is None or isinstance(model, str):
        name = check_named(info.name) if model is None else model
        classes = None if is_elsewhere(name) else info.num_classes  # a function of the user's knows its own
        whole = create_model(name, num_classes=classes, pretrained=False, options=options, input_size=input_size)
    else:
        whole = take_in(model, like=info)
    model = apply_plan(whole, plan, info.weights_sha256)
    fill_module(model, allocation.tensors.arrays())
    return model


def is_pruned_file(name: str) -> bool:
    """Whether ``name`` is a file or a run directory, of a pruned model perhaps, and no model's name."""
    path = Path(name)
    return (is_file(path) and path.suffix == ".json") or is_file(path / CHOSEN)


def _file(path: Path) -> Path:
    if not is_dir(path):
        return path
    return unchanged(path, known_manifest(path).files, CHOSEN) or path / CHOSEN


def plain(subject: Subject) -> Quantized:
    """A model as it is, in FP32."""
    nothing = dict.fromkeys(subject.inventory.names, FLOAT)
    return Quantized(nothing, find_recipe("minmax"), {}, both_file(subject.module, subject.model))


def pruned_like(subject: Subject, allocation: Allocation, images: Tensor | None = None) -> Subject:
    """The subject with what an allocation was pruned of removed; recovered by ``images``, where there are any.

    Without images the weights are those of the checkpoint, cut: for an allocation that brings its own.

    Raises:
        PmqError: the allocation is of another model, or the subject is pruned, but otherwise.
    """
    allocation.check_model(subject.info)
    own, wanted = plan_of(subject.module), allocation.pruning
    if own is not None:
        if wanted is None or wanted.digest != own.digest:
            raise PmqError(
                "the allocation is not of this pruned model; give the model before it was pruned, or the file of its own"
            )
        return subject
    return subject if wanted is None else subject.of_module(pruned_copy(subject.module, wanted, images, subject.task))


def pruned_copy(model: nn.Module, plan: PruningPlan, images: Tensor | None, task: Task, seed: int = 0) -> nn.Module:
    """Prune a copy; by ``images`` ``(N, C, H, W)``, if there are any, mix its heads and recover it, where the plan says so."""
    mixed, units = copy.deepcopy(model), [unit for unit in find_units(model).found if unit.name in plan.units]
    if images is None:
        return apply_plan(mixed, plan)
    weights = row_weights(model, [unit.last for unit in units], images, task, seed)
    if plan.ranked:
        rotate_to_principal_axes(mixed, [unit for unit in units if unit.can_mix], images, weights)
    return carved(mixed, plan, model_info(model).weights_sha256, images, weights)


def carved(mixed: nn.Module, plan: PruningPlan, pruned_from: str, images: Tensor, weights: RowWeights) -> nn.Module:
    """Prune a copy of a model whose channels are those that the plan names, and recover it where the plan says so.

    Args:
        mixed: the model, its heads mixed if the plan is of such.
        plan: what to remove.
        pruned_from: hash of the weights before heads were mixed.
        images: ``(N, C, H, W)`` to recover on.
        weights: of rows of the layers that read what is left.
    """
    pruned = apply_plan(copy.deepcopy(mixed), plan, pruned_from)
    if plan.recovered:
        least_squares_reconstruction(mixed, pruned, plan, images, weights)
    return pruned
