"""Which channels are kept: by their importance, a ratio, and what widths a runtime likes."""

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
#: what may be removed: hidden channels of MLPs, channels within heads as they are or mixed (:mod:`pmq.pruning.low_rank`), whole
#: heads, channels of residual streams
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
    """Choose what is kept of each unit.

    Args:
        units: of the model.
        scores: importance of each channel.
        ratio: of channels to remove.
        structures: see ``STRUCTURES``.
        scope: ``uniform``: ``ratio`` of each unit; ``global``: of all units of a kind together, the least important of all.
        ratios: pattern of names -> another ratio for those units; they do not take part in a global choice.
        round_to: widths are multiples of it.

    Raises:
        PmqError: there is no such structure or scope, a ratio is not from 0 to below 1, or a pattern names no unit.
    """
    check_choice(ratio, structures, scope, ratios, round_to)
    for pattern in ratios or {}:
        if not any(fnmatchcase(unit.name, pattern) for unit in units):
            raise PmqError(f"{pattern!r} matches no part that can be pruned, such as {units[0].name!r}")
    found: dict[str, PrunedUnit] = {}
    for kind in dict.fromkeys(unit.kind for unit in units):
        chosen = [unit for unit in units if unit.kind == kind and _structure(unit, structures) is not None]
        own = {u.name: r for u in chosen for pattern, r in (ratios or {}).items() if fnmatchcase(u.name, pattern)}
        together = [unit for unit in chosen if unit.name not in own] if scope == "global" else []
        shares = _global_shares(together, scores, ratio, structures) if together else {}
        for unit in chosen:
            keep = 1 - own[unit.name] if unit.name in own else shares.get(unit.name, 1 - ratio)
            found[unit.name] = _kept(unit, scores[unit.name], keep, str(_structure(unit, structures)), round_to)
    return found


def _structure(unit: Unit, structures: Sequence[str]) -> str | None:
    """What of a unit is removed, if anything: of an attention the finest that is allowed."""
    if unit.kind != "attention":
        return unit.kind if unit.kind in structures else None
    if not unit.whole and ("width" in structures or "rank" in structures):
        return "width"
    return "heads" if "heads" in structures else None


def _pieces(unit: Unit, score: Tensor, structure: str) -> Tensor:
    """Importance of what is removed at once."""
    return score.reshape(unit.heads, -1).mean(1) if structure == "heads" else score


def _global_shares(units: Sequence[Unit], scores: Scores, ratio: float, structures: Sequence[str]) -> dict[str, float]:
    """Shares to keep so that the least important pieces of all units are removed."""
    pieces = {u.name: _pieces(u, scores[u.name], str(_structure(u, structures))) for u in units}
    every = torch.cat(list(pieces.values()))
    removed = round(ratio * len(every))
    threshold = every.sort().values[removed] if removed else every.min()
    return {name: float((of >= threshold).double().mean()) for name, of in pieces.items()}


def _kept(unit: Unit, score: Tensor, share: float, structure: str, round_to: int) -> PrunedUnit:
    """Keep the most important channels of a unit; heads that stay keep equally many each."""
    if structure == "heads":
        heads = _most(_pieces(unit, score, structure), max(1, round(unit.heads * share)))
        width = unit.size // unit.heads
        kept = [int(head) * width + i for head in heads for i in range(width)]
    else:
        by_head = score.reshape(unit.heads, -1)
        width = by_head.shape[1]
        count = min(width, max(min(round_to, width), round(width * share / round_to) * round_to))
        kept = [head * width + int(i) for head, row in enumerate(by_head) for i in _most(row, count)]
    return unit.keeping(kept)


def _most(score: Tensor, count: int) -> list[int]:
    return [int(i) for i in score.argsort(descending=True, stable=True)[:count]]


def check_choice(
    ratio: float, structures: Sequence[str], scope: str, ratios: Mapping[str, float] | None = None, round_to: int = 1
) -> None:
    """Raise unless this is something that :func:`select` can be asked for.

    Raises:
        PmqError: there is no such structure or scope, or a ratio is not from 0 to below 1.
    """
    for structure in structures:
        if structure not in STRUCTURES:
            raise PmqError(f"structure {structure!r} is not one of {', '.join(STRUCTURES)}")
    if scope not in ("uniform", "global"):
        raise PmqError(f"scope {scope!r} is not one of uniform, global")
    for value in (ratio, *(ratios or {}).values()):
        if not 0 <= value < 1:
            raise PmqError(f"ratio {value} is not from 0 to below 1: it is the share of channels to remove")
    if round_to < 1:
        raise PmqError(f"round_to {round_to} is not positive")
