"""Validation of prunable units: a pruned model must compute the same as the model whose removed channels are masked."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from pmq.core.errors import one_line
from pmq.core.pruning import PrunedUnit
from pmq.models.output_selection import FAILURES
from pmq.pruning.apply import cut, linear
from pmq.pruning.units import Unit, Units, example, find_units, stream_of

#: relative difference of outputs that is allowed, about a hundred times the rounding error of single precision
TOLERANCE = 1e-4


def prunable_units(model: nn.Module, embedding: bool = False) -> list[Unit]:
    """Return the prunable units of ``model`` in the order of its graph, with the residual stream if ``embedding`` is set."""
    return provable_units(model, embedding).units


@torch.no_grad()
def provable_units(model: nn.Module, embedding: bool = False) -> Units:
    """Return the units of ``model`` that can be pruned, and the reason for each layer or attention that cannot.

    Every unit of the graph is pruned in a copy of the model, because a module may compute with a fixed width that the graph
    does not show, or store one in an attribute of an unknown name.
    """
    units = find_units(model)
    image = example(model)
    refused, proved = dict(units.refused), _proved(model, units.units, image)
    if proved is None:
        proved = []
        for similar in _similar(units.units):
            reason = _failure(model, similar[:1], image)
            if reason is not None:
                refused |= dict.fromkeys((unit.name for unit in similar), reason)
            elif (together := _proved(model, similar, image)) is not None:
                proved += together
            else:
                reasons = {unit: _failure(model, [unit], image) for unit in similar}
                proved += [unit for unit, why in reasons.items() if why is None]
                refused |= {unit.name: why for unit, why in reasons.items() if why is not None}
        proved.sort(key=units.units.index)
    stream = stream_of(model) if embedding else None
    return Units([*proved, *([] if stream is None else [stream])], refused)


def _similar(units: Iterable[Unit]) -> list[list[Unit]]:
    """Group units of the same size whose names differ only in numbers."""
    kinds: dict[tuple[object, ...], list[Unit]] = {}
    for unit in units:
        key = (unit.kind, unit.whole_heads_only, unit.size, unit.heads, re.sub(r"\d+", "#", unit.last))
        kinds.setdefault(key, []).append(unit)
    return list(kinds.values())


def _proved(model: nn.Module, units: Sequence[Unit], image: Tensor) -> list[Unit] | None:
    """Return the units if all of them can be pruned together, else None."""
    return None if _failure(model, units, image) else list(units)


def _failure(model: nn.Module, units: Sequence[Unit], image: Tensor) -> str | None:
    """Return why units cannot be pruned by heads or by width, where these apply; None if they can."""
    for reduce in (_fewer, _narrower):
        cuts = [(unit, pruned) for unit in units if (pruned := reduce(unit)) is not None]
        if not cuts:
            continue
        masked, smaller = copy.deepcopy(model), copy.deepcopy(model)
        for unit, pruned in cuts:
            _mask(masked, unit, pruned)
        try:
            for unit, pruned in cuts:
                cut(smaller, unit, pruned)
            reference, output = masked(image), smaller(image)
        except FAILURES as error:
            return f"it computes with a fixed width ({one_line(error)})"
        difference = float((output - reference).norm() / reference.norm().clamp(min=1e-30))
        if not difference <= TOLERANCE:
            return f"pruned, it does not compute the same as masked (relative difference {difference:.2g})"
    return None


def _fewer(unit: Unit) -> PrunedUnit | None:
    """Keep half of the channels, or all heads but one."""
    if unit.kind == "attention":
        width = unit.size // unit.heads
        return unit.keeping(range(width, unit.size)) if unit.heads > 1 else None
    return unit.keeping(range(0, unit.size, 2)) if unit.size > 1 else None


def _narrower(unit: Unit) -> PrunedUnit | None:
    """Keep half of the channels of each head."""
    width = unit.size // unit.heads
    if not unit.can_mix or width < 2:
        return None
    kept = [head * width + i for head in range(unit.heads) for i in range(0, width, 2)]
    return unit.keeping(kept)


def _mask(model: nn.Module, unit: Unit, pruned: PrunedUnit) -> None:
    """Zero the weights that read removed channels, and those of the keys that make them."""
    kept = torch.tensor(pruned.indices)
    linear(model, unit.last).weight[:, ~torch.isin(torch.arange(unit.size), kept)] = 0
    if unit.kind == "attention" and not unit.whole_heads_only:
        name, rows = unit.operands[1]
        layer = linear(model, name)
        width = unit.size // unit.heads
        heads = torch.tensor(sorted({index // width for index in pruned.indices}))
        removed = rows.reshape(-1)[~torch.isin(torch.arange(unit.size), kept)]
        removed = removed[torch.isin(removed, rows[heads].reshape(-1))]
        layer.weight[removed] = 0
        if layer.bias is not None:
            layer.bias[removed] = 0
