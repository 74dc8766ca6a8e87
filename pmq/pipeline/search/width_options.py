"""The widths that a search may choose for each unit, and the model at such widths, for profiling."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from pmq.core.pruning import PrunedUnit, PruningPlan, WidthOptions
from pmq.optimize import SpaceFile
from pmq.pipeline.subject import Subject
from pmq.pruning import Unit, apply_plan, prunable_units, select
from pmq.runtimes import TARGETS
from pmq.runtimes.width_latency import Narrower

#: shares of hidden channels, and of the channels of each head, that a search may keep
SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
#: widths are multiples of this
ROUND_TO = 8


def width_options(model: nn.Module, unit: Unit, ranks: Tensor | None, lost: Tensor, whole_groups: int = 1) -> WidthOptions:
    """Return the widths of a unit, given the error of removing each channel ``(size,)``, and ``ranks`` of rotated heads.

    All widths but the full one are multiples of ``whole_groups``.
    """
    narrower: dict[str, PrunedUnit] = {}
    if unit.kind == "hidden" or ranks is not None:
        structure, scores = ("hidden", lost) if ranks is None else ("rank", ranks)
        for share in SHARES:
            kept = select([unit], {unit.name: scores}, 1 - share, (structure,), round_to=ROUND_TO)[unit.name]
            narrower.setdefault(kept.kept, kept)
    for heads in range(1, unit.heads):
        kept = select([unit], {unit.name: lost}, 1 - heads / unit.heads, ("heads",))[unit.name]
        narrower.setdefault(kept.kept, kept)
    whole = unit.keeping(range(unit.size))
    fitting = {text: kept for text, kept in narrower.items() if len(kept.indices) % whole_groups == 0}
    options = tuple(sorted((fitting | {whole.kept: whole}).values(), key=lambda kept: (kept.share, kept.kept_heads)))
    biases = [getattr(model.get_submodule(name), "bias", None) for name in unit.makers]
    keys = (unit.operands[1][0], tuple(unit.operands[1][1].reshape(-1).tolist())) if unit.operands else None
    return WidthOptions(unit.name, options, 4.0 * sum(b.numel() for b in biases if isinstance(b, Tensor)), keys)


def groups_of(space: SpaceFile, target: str | None) -> int:
    """Return the number that widths must be multiples of, because a target has no shorter groups of weights."""
    sizes = [mode.weight.group_size or 1 for mode in space.modes.values()]
    return 1 if target is None or TARGETS[target].ragged else max(sizes, default=1)


class Shapes:
    """The model at the widths that a search may choose; which channels are kept does not matter for latency."""

    def __init__(self, subject: Subject, whole_groups: int = 1) -> None:
        self._subject, self._whole_groups = subject, whole_groups
        self._kinds: dict[tuple[object, ...], list[Unit]] = {}
        for unit in prunable_units(subject.module):
            self._kinds.setdefault((unit.kind, unit.size, unit.heads, unit.whole_heads_only, len(unit.makers)), []).append(unit)

    @property
    def layers(self) -> dict[str, tuple[str, ...]]:
        """The layers of each unit."""
        return {unit.name: (*unit.makers, unit.last) for units in self._kinds.values() for unit in units}

    @property
    def whole(self) -> Narrower:
        """The model at full width."""
        return Narrower(self._subject.model, self._subject.inventory, {})

    def alike(self) -> Iterator[Narrower]:
        """Yield the model at each width, with all units of one kind and size at that width."""
        for units in self._kinds.values():
            for options in list(zip(*(self._options(unit) for unit in units), strict=True))[:-1]:
                yield self._narrower({unit.name: option for unit, option in zip(units, options, strict=True)})

    def mixed(self, count: int, seed: int = 0) -> Iterator[Narrower]:
        """Yield the model at random widths of all units, around levels from the narrowest to the full width."""
        rng = np.random.default_rng(seed)
        options = {unit.name: self._options(unit) for units in self._kinds.values() for unit in units}
        for level in np.linspace(0, 1, count):
            drawn = {n: np.clip(round(level * (len(of) - 1) + rng.normal()), 0, len(of) - 1) for n, of in options.items()}
            yield self._narrower({name: of[int(drawn[name])] for name, of in options.items()})

    def _options(self, unit: Unit) -> tuple[PrunedUnit, ...]:
        order = torch.arange(unit.size, 0, -1).double()
        ranks = order if unit.can_mix else None
        return width_options(self._subject.module, unit, ranks, order, self._whole_groups).options

    def _narrower(self, widths: dict[str, PrunedUnit]) -> Narrower:
        plan = PruningPlan(importance="none", recovered=False, units=widths)
        shaped = self._subject.of_module(apply_plan(copy.deepcopy(self._subject.module), plan))
        return Narrower(shaped.model, shaped.inventory, widths)
