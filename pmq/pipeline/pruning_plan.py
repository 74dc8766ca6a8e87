"""The steps of ``pmq.prune``: plan, score channels, select those that stay, and build the pruned model."""

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
from pmq.models.weights import weights_sha256
from pmq.pipeline.allocation import make_allocation
from pmq.pipeline.images import gather_images
from pmq.pipeline.pruned_model import carved, plain
from pmq.pipeline.subject import Subject
from pmq.pruning import IMPORTANCES, Unit, plan_of, provable_units, rotate_to_principal_axes, select
from pmq.pruning.apply import check_stream
from pmq.pruning.groups import require_torch_pruning
from pmq.pruning.losses import RowWeights, row_weights
from pmq.pruning.reconstruction import Reconstruction
from pmq.pruning.select import check_choice
from pmq.quant import images_sha256

#: images that importances and reconstruction read
IMAGES = 256
#: images whose single gradients importances other than ``reconstruction`` use
GRADIENT_IMAGES = 64


@dataclass(frozen=True)
class Pruned:
    """A pruned model.

    Attributes:
        allocation: the pruned model in FP32, with its pruning plan and its tensors; reconstructed unless ``recovery`` is off.
        cut: the same model before reconstruction.
        file: the file that ``allocation`` was written to, or ``None``.
    """

    allocation: Allocation
    cut: Allocation
    file: Path | None = None


@dataclass(frozen=True)
class PrunePlan:
    """Everything that the steps of pruning need.

    Attributes:
        subject: the FP32 model.
        images: images ``(N, C, H, W)`` that importances and reconstruction read.
        units: MLPs, attentions and streams that may lose channels.
        importance: name of the importance.
        structures: names of the structures that may be removed.
        row_weights: weights of the outputs' rows, by layer.
        seed: seed of drawn labels and of random importances.
        out: folder to write to, or ``None``.
    """

    subject: Subject
    images: Tensor
    units: tuple[Unit, ...]
    importance: str
    structures: tuple[str, ...]
    row_weights: RowWeights
    seed: int
    out: Path | None


def plan_pruning(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    *,
    importance: str,
    structures: Sequence[str] | None,
    n_calibration: int,
    crop_pct: float | None,
    seed: int,
    device: str | torch.device | None,
    out: Path | str | None,
    task: str,
) -> PrunePlan:
    """Read and check the inputs, and find what can be pruned; see :func:`pmq.prune` for the arguments.

    Raises:
        PmqError: an input is wrong, the model is pruned already, or nothing of it can be pruned.
    """
    folder = None if out is None else named_path(out, "folder to write")
    if structures is None:
        structures = ("hidden", "rank" if importance == Reconstruction.name else "width")
    gathered = gather_images(images, n_calibration)
    subject = Subject.of(model, device, gathered, crop_pct, task)
    if plan_of(subject.module) is not None:
        raise PmqError("this model is pruned already; prune the model that it was built from")
    if "embedding" in structures:
        check_stream(subject.module)
    provable = provable_units(subject.module, "embedding" in structures)
    units = tuple(unit for unit in provable.units if _prunes(unit, structures))
    provable.report_refused()
    if not units:
        raise PmqError(
            f"model {subject.info.name!r} has nothing to prune by {', '.join(structures)}: it has no MLP of linear layers and "
            "no attention between linear layers whose channels can be removed"
        )
    if importance != Reconstruction.name:
        require_torch_pruning()
    layers = [unit.last for unit in units if unit.kind != "embedding"]
    weights = row_weights(subject.module, layers, gathered, subject.task, seed)
    return PrunePlan(
        subject=subject,
        images=gathered,
        units=units,
        importance=importance,
        structures=tuple(structures),
        row_weights=weights,
        seed=seed,
        out=folder,
    )


def score_channels(plan: PrunePlan) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a copy of the model, with heads rotated where their rank is pruned, and the score of each channel by unit."""
    module = copy.deepcopy(plan.subject.module)
    ranked = [unit for unit in plan.units if unit.can_mix] if "rank" in plan.structures else []
    scores = rotate_to_principal_axes(module, ranked, plan.images, plan.row_weights) if ranked else {}
    unranked = [unit for unit in plan.units if unit.name not in scores]
    images = plan.images if plan.importance == Reconstruction.name else plan.images[:GRADIENT_IMAGES]
    importance, subject = IMPORTANCES[plan.importance], plan.subject
    return module, scores | importance.score(subject.module, unranked, images, subject.task, plan.seed, plan.row_weights)


def select_channels(
    plan: PrunePlan,
    scores: dict[str, Tensor],
    ratio: float,
    scope: str,
    ratios: Mapping[str, float] | None,
    round_to: int,
) -> PruningPlan:
    """Return the pruning plan that keeps the channels with the highest scores."""
    kept = select(plan.units, scores, ratio, plan.structures, scope, ratios, round_to)
    return PruningPlan(importance=plan.importance, ranked="rank" in plan.structures, recovered=False, units=kept)


def build_pruned(plan: PrunePlan, rotated: nn.Module, pruning: PruningPlan) -> Allocation:
    """Remove channels from a copy of the rotated model, reconstruct it where the pruning plan says so, and describe it."""
    subject = plan.subject
    module = carved(rotated, pruning, subject.info.weights_sha256, plan.images, plan.row_weights)
    applied = plan_of(module)
    assert applied is not None
    facts = {"weights_sha256": weights_sha256(module), "parameters": sum(p.numel() for p in module.parameters())}
    module.pruning_plan = applied.model_copy(update=facts)  # type: ignore[assignment]
    info = CalibrationInfo(sha256=images_sha256(plan.images), n_images=len(plan.images), seed=plan.seed)
    shaped = subject.of_module(module)
    return make_allocation(shaped, plain(shaped), info, "fp32", budget=f"pruned by {applied.importance}")


def check_request(
    importance: str,
    ratio: float,
    structures: Sequence[str] | None,
    scope: str,
    ratios: Mapping[str, float] | None,
    round_to: int,
) -> None:
    """Raise unless names and numbers are allowed, before any work."""
    IMPORTANCES.check(importance)
    check_choice(ratio, structures or (), scope, ratios, round_to)


def _prunes(unit: Unit, structures: Sequence[str]) -> bool:
    of_attention = ("width", "rank", "heads") if unit.kind == "attention" else (unit.kind,)
    return any(structure in structures for structure in of_attention)
