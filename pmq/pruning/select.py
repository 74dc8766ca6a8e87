"""Selection of the channels to keep, by importance, pruning ratio and a multiple that widths are rounded to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor

from pmq.core.errors import PmqError
from pmq.core.pruning import PrunedUnit
from pmq.pruning.importance import Scores
from pmq.pruning.units import Unit

Scope = Literal["uniform", "global"]
#: structures that can be pruned: hidden channels of MLPs, channels within heads as they are or rotated to principal axes
#: (:mod:`pmq.pruning.low_rank`), whole heads, channels of the residual stream
STRUCTURES = ("hidden", "width", "rank", "heads", "embedding")


def select(
    units: Sequence[Unit],
    scores: Scores,
    ratio: float,
    structures: Sequence[str] = ("hidden", "width"),
    scope: str = "uniform",
    ratios: Mapping[str, float] | None = None,
    round_to: int = 8,
) -> dict[str, PrunedUnit]:
    """Select the channels to keep of each unit.

    Args:
        units: prunable units of the model.
        scores: importance of each channel, by unit.
        ratio: share of channels to remove.
        structures: see ``STRUCTURES``.
        scope: ``uniform`` removes ``ratio`` of each unit; ``global`` removes the least important channels of all units of a
            kind together.
        ratios: pattern of unit names -> another ratio for those units, which are excluded from a global selection.
        round_to: multiple that widths are rounded to.

    Raises:
        PmqError: a structure or the scope is unknown, a ratio is not from 0 to below 1, or a pattern matches no unit.
    """
    check_choice(ratio, structures, scope, ratios, round_to)
    for pattern in ratios or {}:
        if not any(fnmatchcase(unit.name, pattern) for unit in units):
            raise PmqError(f"{pattern!r} matches no part that can be pruned, such as {units[0].name!r}")
    selection: dict[str, PrunedUnit] = {}
    for kind in dict.fromkeys(unit.kind for unit in units):
        chosen = [unit for unit in units if unit.kind == kind and _structure(unit, structures) is not None]
        unit_ratios = {u.name: r for u in chosen for pattern, r in (ratios or {}).items() if fnmatchcase(u.name, pattern)}
        together = [unit for unit in chosen if unit.name not in unit_ratios] if scope == "global" else []
        shares = _global_shares(together, scores, ratio, structures) if together else {}
        for unit in chosen:
            keep = 1 - unit_ratios[unit.name] if unit.name in unit_ratios else shares.get(unit.name, 1 - ratio)
            selection[unit.name] = _keep(unit, scores[unit.name], keep, str(_structure(unit, structures)), round_to)
    return selection


def _structure(unit: Unit, structures: Sequence[str]) -> str | None:
    """Return the structure to remove from a unit, the finest allowed of an attention; None if none applies."""
    if unit.kind != "attention":
        return unit.kind if unit.kind in structures else None
    if not unit.whole_heads_only and ("width" in structures or "rank" in structures):
        return "width"
    return "heads" if "heads" in structures else None


def _pieces(unit: Unit, score: Tensor, structure: str) -> Tensor:
    """Return the importance of each piece that is removed at once: a head or a channel."""
    return score.reshape(unit.heads, -1).mean(1) if structure == "heads" else score


def _global_shares(units: Sequence[Unit], scores: Scores, ratio: float, structures: Sequence[str]) -> dict[str, float]:
    """Return the share to keep of each unit so that the least important pieces of all units are removed."""
    pieces = {u.name: _pieces(u, scores[u.name], str(_structure(u, structures))) for u in units}
    all_pieces = torch.cat(list(pieces.values()))
    removed = round(ratio * len(all_pieces))
    threshold = all_pieces.sort().values[removed] if removed else all_pieces.min()
    return {name: float((score >= threshold).double().mean()) for name, score in pieces.items()}


def _keep(unit: Unit, score: Tensor, share: float, structure: str, round_to: int) -> PrunedUnit:
    """Keep the most important channels of a unit, equally many of each remaining head."""
    if structure == "heads":
        heads = _highest(_pieces(unit, score, structure), max(1, round(unit.heads * share)))
        width = unit.size // unit.heads
        kept = [int(head) * width + i for head in heads for i in range(width)]
    else:
        by_head = score.reshape(unit.heads, -1)
        width = by_head.shape[1]
        count = min(width, max(min(round_to, width), round(width * share / round_to) * round_to))
        kept = [head * width + int(i) for head, row in enumerate(by_head) for i in _highest(row, count)]
    return unit.keeping(kept)


def _highest(score: Tensor, count: int) -> list[int]:
    return [int(i) for i in score.argsort(descending=True, stable=True)[:count]]


def check_choice(
    ratio: float, structures: Sequence[str], scope: str, ratios: Mapping[str, float] | None = None, round_to: int = 1
) -> None:
    """Check the options of :func:`select`.

    Raises:
        PmqError: a structure or the scope is unknown, a ratio is not from 0 to below 1, or ``round_to`` is not positive.
    """
    for structure in structures:
        if structure not in STRUCTURES:
            raise PmqError(f"structure {structure!r} is not one of {', '.join(STRUCTURES)}")
    if scope not in ("uniform", "global"):
        raise PmqError(f"scope {scope!r} is not one of uniform, global")
    for value in (ratio, *(ratios or {}).values()):
        if not 0 <= value < 1:
            raise PmqError(f"ratio {value} is not from 0 to below 1; it is the share of channels to remove")
    if round_to < 1:
        raise PmqError(f"round_to {round_to} is not positive")
