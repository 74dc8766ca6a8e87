"""What a sensitivity metric is."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from pmq.core.choice import Choice, Decisions
from pmq.core.registry import Registry
from pmq.core.task import CLASSIFICATION, Task
from pmq.metrics.table import SensitivityTable
from pmq.quant import Simulator

Choices = Mapping[str, Sequence[Choice]]
#: give a journaled error, or nothing
Recall = Callable[[str, Choice], float | None]
Found = tuple[str, Choice, float]  # component, choice, error
#: journal an error
Record = Callable[[str, Choice, float], None]


class Journal(Protocol):
    """Where sums over parts of the images are kept, so that a killed run goes on from them."""

    def recall(self, key: str) -> dict[str, Any] | None:
        """Give what was kept under ``key``, or nothing."""
        ...

    def record(self, key: str, value: dict[str, Any]) -> None:
        """Keep a value."""
        ...


@dataclass
class Probe:
    """What a metric may look at.

    Attributes:
        simulator: the model, to quantize one component or another.
        images: ``(N, C, H, W)``; no labels are needed.
        task: what the output means.
        base: the allocation around which to measure; FP32 where it names nothing.
        batch_size: images at once.
        seed: for metrics that draw.
        keep_outputs: keep what ``one_at_a_time`` gives, for several metrics that look at the same; what it took counts as
            part of each one's ``seconds``.
        journal: for sums over parts of the images; none is kept without.
    """

    simulator: Simulator
    images: Tensor
    task: Task = CLASSIFICATION
    base: Decisions = field(default_factory=dict)
    batch_size: int = 24
    seed: int = 0
    keep_outputs: bool = False
    journal: Journal | None = None
    kept_outputs: dict[tuple[str, Choice], Tensor] = field(default_factory=dict, init=False, repr=False)
    kept_s: float = field(default=0.0, init=False)
    _reference: Tensor | None = field(default=None, init=False, repr=False)

    def reference(self) -> Tensor:
        """Outputs of FP32 ``(N, ...)``; computed once."""
        if self._reference is None:
            self.simulator.apply({})
            self._reference = self.outputs()
            self.simulator.apply(self.base)
        return self._reference

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """Outputs of the model as it is quantized now ``(N, ...)``."""
        device = next(self.simulator.model.parameters()).device
        return torch.cat([self.simulator.model(x.to(device)) for x in self.images.split(self.batch_size)])


class Metric(ABC):
    """Fills a sensitivity table. ``measure`` is public, subclasses write ``_measure``."""

    name: ClassVar[str]
    #: whether errors are beside that of the allocation around which is measured, whose own are zero; or beside FP32
    relative: ClassVar[bool] = False
    #: whether it is so quick, and errors so whole, that a search measures anew around the best of each round
    renewed: ClassVar[bool] = False
    #: whether it is made of outputs measured one at a time
    measures_outputs: ClassVar[bool] = False
    #: whether each error is found by itself, so that a journal of some can be gone on with; not from sums over all choices
    piecewise: ClassVar[bool] = True
    #: whether errors are not all there is to its table, so that a journal of all does not make up for measuring
    has_effects: ClassVar[bool] = False

    def measure(
        self,
        probe: Probe,
        choices: Choices,
        recall: Recall = lambda name, choice: None,
        record: Record = lambda name, choice, error: None,
    ) -> SensitivityTable:
        """Measure every choice (FP32 is 0 by definition) of every component.

        Args:
            probe: model and images.
            choices: component -> choices.
            recall: gives errors that a killed run had journaled already.
            record: is told each new error as soon as it is known.
        """
        start, saved = time.perf_counter(), probe.kept_s
        table = SensitivityTable(self.name)
        wanted = [(name, choice) for name, options in choices.items() for choice in options if not choice.is_fp32]
        known = {pair: error for pair in wanted if (error := recall(*pair)) is not None}
        missing = [pair for pair in wanted if pair not in known]
        if not self.piecewise and (missing or self.has_effects):
            missing = wanted
        for pair in wanted:
            if pair in known:
                table.put(*pair, known[pair])
        todo: dict[str, list[Choice]] = {}
        for name, choice in missing:
            todo.setdefault(name, []).append(choice)
        probe.simulator.apply(probe.base)
        if todo:
            for name, choice, error in self._measure(probe, todo, table):
                table.put(name, choice, error)
                if (name, choice) not in known:
                    record(name, choice, error)
        probe.simulator.apply({})
        table.seconds = time.perf_counter() - start
        if self.measures_outputs and saved == probe.kept_s:
            table.seconds += saved
        return table

    @abstractmethod
    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterable[Found]:
        """Yield the errors to enter into ``table``; the simulator holds ``probe.base`` before and after."""


METRICS: Registry[Metric] = Registry("sensitivity metric")


def register(cls: type[Metric]) -> type[Metric]:
    """Make a metric known by its name."""
    METRICS.add(cls.name, cls())
    return cls
