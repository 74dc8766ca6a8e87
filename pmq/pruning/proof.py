"""Try what is to be removed: a model that is cut must compute what it does when nobody reads what was cut."""

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

#: relative difference of outputs, of which rounding in single precision makes a hundredth
TOLERANCE = 1e-4


def prunable_units(model: nn.Module, embedding: bool = False) -> list[Unit]:
    """List what of ``model`` can be removed, in the order of its graph; its residual stream as well, if asked for."""
    return provable_units(model, embedding).found


@torch.no_grad()
def provable_units(model: nn.Module, embedding: bool = False) -> Units:
    """Find what can be removed of ``model``, and what cannot, with the reason.

    Everything that the graph shows is cut in copies: a module may compute with a width of its own that the graph does not
    show, or remember one by a name that is not known.
    """
    units = find_units(model)
    image = example(model)
    refused, found = dict(units.refused), _proved(model, units.found, image)
    if found is None:
        found = []
        for kind in _alike(units.found):
            reason = _failure(model, kind[:1], image)
            if reason is not None:
                refused |= dict.fromkeys((unit.name for unit in kind), reason)
            elif (proved := _proved(model, kind, image)) is not None:
                found += proved
            else:
                reasons = {unit: _failure(model, [unit], image) for unit in kind}
                found += [unit for unit, why in reasons.items() if why is None]
                refused |= {unit.name: why for unit, why in reasons.items() if why is not None}
        found.sort(key=units.found.index)
    stream = stream_of(model) if embedding else None
    return Units([*found, *([] if stream is None else [stream])], refused)


def _alike(units: Iterable[Unit]) -> list[list[Unit]]:
    """Units whose names differ in numbers alone, and whose sizes are the same."""
    kinds: dict[tuple[object, ...], list[Unit]] = {}
    for unit in units:
        key = (unit.kind, unit.whole, unit.size, unit.heads, re.sub(r"\d+", "#", unit.last))
        kinds.setdefault(key, []).append(unit)
    return list(kinds.values())


def _proved(model: nn.Module, units: Sequence[Unit], image: Tensor) -> list[Unit] | None:
    return None if _failure(model, units, image) else list(units)


def _failure(model: nn.Module, units: Sequence[Unit], image: Tensor) -> str | None:
    """Why units cannot be cut, if they cannot; they are cut both by heads and by width, where they may be."""
    for reduce in (_fewer, _narrower):
        cuts = [(unit, pruned) for unit in units if (pruned := reduce(unit)) is not None]
        if not cuts:
            continue
        wanted, smaller = copy.deepcopy(model), copy.deepcopy(model)
        for unit, pruned in cuts:
            _mask(wanted, unit, pruned)
        try:
            for unit, pruned in cuts:
                cut(smaller, unit, pruned)
            reference, output = wanted(image), smaller(image)
        except FAILURES as error:
            return f"it computes with a width of its own ({one_line(error)})"
        difference = float((output - reference).norm() / reference.norm().clamp(min=1e-30))
        if not difference <= TOLERANCE:
            return f"without channels it computes something else (relative difference {difference:.2g})"
    return None


def _fewer(unit: Unit) -> PrunedUnit | None:
    """Half of the channels, or one head less."""
    if unit.kind == "attention":
        width = unit.size // unit.heads
        return unit.keeping(range(width, unit.size)) if unit.heads > 1 else None
    return unit.keeping(range(0, unit.size, 2)) if unit.size > 1 else None


def _narrower(unit: Unit) -> PrunedUnit | None:
    """Half of the channels of each head."""
    width = unit.size // unit.heads
    if not unit.can_mix or width < 2:
        return None
    kept = [head * width + i for head in range(unit.heads) for i in range(0, width, 2)]
    return unit.keeping(kept)


def _mask(model: nn.Module, unit: Unit, pruned: PrunedUnit) -> None:
    """Let nobody read what is removed, and let the keys of it be zero."""
    kept = torch.tensor(pruned.indices)
    linear(model, unit.last).weight[:, ~torch.isin(torch.arange(unit.size), kept)] = 0
    if unit.kind == "attention" and not unit.whole:
        name, rows = unit.operands[1]
        layer = linear(model, name)
        width = unit.size // unit.heads
        heads = torch.tensor(sorted({index // width for index in pruned.indices}))
        gone = rows.reshape(-1)[~torch.isin(torch.arange(unit.size), kept)]
        gone = gone[torch.isin(gone, rows[heads].reshape(-1))]
        layer.weight[gone] = 0
        if layer.bias is not None:
            layer.bias[gone] = 0
