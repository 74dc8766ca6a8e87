"""From a model and images to a smaller model, and the plan by which it can be rebuilt anywhere."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core import Allocation, PmqError
from pmq.core.allocation import CalibrationInfo
from pmq.core.paths import named_path
from pmq.core.pruning import PruningPlan
from pmq.core.rundir import CHOSEN
from pmq.core.task import AUTO
from pmq.models.weights import weights_sha256
from pmq.pipeline.allocation import make_allocation
from pmq.pipeline.images import gather_images
from pmq.pipeline.modes import undisturbed
from pmq.pipeline.pruned_model import carved, plain
from pmq.pipeline.subject import Subject
from pmq.pruning import IMPORTANCES, Unit, plan_of, provable_units, rotate_to_principal_axes, select
from pmq.pruning.apply import check_stream
from pmq.pruning.groups import require_torch_pruning
from pmq.pruning.losses import RowWeights, row_weights
from pmq.pruning.reconstruction import Reconstruction
from pmq.pruning.select import check_choice
from pmq.quant import images_sha256

#: images that importance and recovery look at
IMAGES = 256
#: of which the gradients of single images are taken for importances
SCORED = 64


@dataclass(frozen=True)
class Pruned:
    """A pruned model.

    Attributes:
        allocation: all of it in FP32, with its plan and its tensors; recovered, unless that was not wanted.
        cut: the same before it was recovered.
        file: where the former was written, if anywhere.
    """

    allocation: Allocation
    cut: Allocation
    file: Path | None = None


@undisturbed
def prune(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    ratio: float = 0.25,
    *,
    importance: str = Reconstruction.name,
    structures: Sequence[str] | None = None,
    scope: str = "uniform",
    ratios: Mapping[str, float] | None = None,
    round_to: int = 8,
    recovery: bool = True,
    calib_images: int = IMAGES,
    crop_pct: float | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    out: Path | str | None = None,
    task: str = AUTO,
) -> Pruned:
    """Remove the least important channels of a model, and fit what reads the others anew.

    Args:
        model: a timm-built module (left as it is), or timm's name, or ``None`` for the embedded one.
        images: ``(B, C, H, W)`` or batches of them; labels are not needed. The first ``calib_images`` are looked at.
        ratio: of channels to remove.
        importance: ``reconstruction``, ``magnitude``, ``magnitude_l1``, ``taylor``, ``hessian`` or ``random``.
        structures: what may be removed: ``hidden`` channels of MLPs; of attentions channels within heads (``width``), the
            same after mixing them so that few hold the most (``rank``), or whole ``heads``; ``embedding``, the residual
            stream. Without: ``hidden`` and ``rank`` for ``reconstruction``, ``hidden`` and ``width`` for others.
        scope: ``uniform``: ``ratio`` of each; ``global``: of all of a kind together.
        ratios: pattern of names -> ratio, for parts that have one of their own: ``blocks.0.mlp``.
        round_to: widths are multiples of it, which kernels like.
        recovery: fit the layers behind what was removed anew, in closed form.
        calib_images: see ``images``.
        crop_pct: how images are cropped, where the model's data config says otherwise.
        seed: of drawn labels and of chance.
        device: where to run.
        out: folder to write to.
        task: what outputs mean: a name of :class:`pmq.core.task.Task`; ``auto``
            goes by their number.

    Raises:
        PmqError: bad input, told in one line.

    Example:
        >>> import torch, pmq
        >>> found = pmq.prune(None, torch.randn(16, 1, 28, 28), ratio=0.25, importance="magnitude")
        >>> found.allocation.pruning.units["blocks.0.mlp"].share
        0.75
    """
    IMPORTANCES[importance]
    out = None if out is None else named_path(out, "folder to write")
    if structures is None:
        structures = ("hidden", "rank" if importance == Reconstruction.name else "width")
    check_choice(ratio, structures, scope, ratios, round_to)
    gathered = gather_images(images, calib_images)
    subject = Subject.of(model, device, gathered, crop_pct, task)
    if plan_of(subject.module) is not None:
        raise PmqError("this model is pruned already; prune the one that it was made of")
    if "embedding" in structures:
        check_stream(subject.module)
    known = provable_units(subject.module, "embedding" in structures)
    units = [unit for unit in known.found if _prunes(unit, structures)]
    known.say()
    if not units:
        raise PmqError(
            f"model {subject.info.name!r} has nothing to prune by {', '.join(structures)}: it has no MLP of linear layers and "
            "no attention between such that can be cut"
        )
    if importance != Reconstruction.name:
        require_torch_pruning()
    layers = [unit.last for unit in units if unit.kind != "embedding"]
    weights = row_weights(subject.module, layers, gathered, subject.task, seed)
    mixed, scores = _scored(subject, units, gathered, importance, structures, weights, seed)
    kept = select(units, scores, ratio, structures, scope, ratios, round_to)
    plan = PruningPlan(importance=importance, ranked="rank" in structures, recovered=False, units=kept)
    info = CalibrationInfo(sha256=images_sha256(gathered), n_images=len(gathered), seed=seed)

    def artefact(plan: PruningPlan) -> Allocation:
        return _artefact(subject, carved(mixed, plan, subject.info.weights_sha256, gathered, weights), info)

    cut = artefact(plan)
    found = artefact(plan.model_copy(update={"recovered": True})) if recovery else cut
    file = None if out is None else found.save(out / CHOSEN)
    return Pruned(found, cut, file)


def _prunes(unit: Unit, structures: Sequence[str]) -> bool:
    wanted = ("width", "rank", "heads") if unit.kind == "attention" else (unit.kind,)
    return any(structure in structures for structure in wanted)


def _scored(
    subject: Subject,
    units: Sequence[Unit],
    images: Tensor,
    importance: str,
    structures: Sequence[str],
    weights: RowWeights,
    seed: int,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of the model whose heads are mixed where their rank is pruned, and the scores of its channels."""
    module = copy.deepcopy(subject.module)
    ranked = [unit for unit in units if unit.can_mix] if "rank" in structures else []
    scores = rotate_to_principal_axes(module, ranked, images, weights) if ranked else {}
    others = [unit for unit in units if unit.name not in scores]
    looked_at = images if importance == Reconstruction.name else images[:SCORED]
    return module, scores | IMPORTANCES[importance].score(subject.module, others, looked_at, subject.task, seed, weights)


def _artefact(subject: Subject, module: nn.Module, info: CalibrationInfo) -> Allocation:
    plan = plan_of(module)
    assert plan is not None
    facts = {"weights_sha256": weights_sha256(module), "parameters": sum(p.numel() for p in module.parameters())}
    module.pruning_plan = plan.model_copy(update=facts)  # type: ignore[assignment]
    shaped = subject.of_module(module)
    return make_allocation(shaped, plain(shaped), info, "fp32", budget=f"pruned by {plan.importance}")
