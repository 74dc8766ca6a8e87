"""Interface of sensitivity metrics."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from pmq.core.choice import Choice, Decisions
from pmq.core.registry import Registry
from pmq.core.task import CLASSIFICATION, Task
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.quant import Simulator

Choices = Mapping[str, Sequence[Choice]]
#: return a journaled error, or None
Recall = Callable[[str, Choice], float | None]
Entry = tuple[str, Choice, float]  # component, choice, error
#: journal an error
Record = Callable[[str, Choice, float], None]


class Journal(Protocol):
    """Store of partial sums over batches of images, from which a killed run resumes."""

    def recall(self, key: str) -> dict[str, Any] | None:
        """Return the value recorded under ``key``, or None."""
        ...

    def record(self, key: str, value: dict[str, Any]) -> None:
        """Record ``value`` under ``key``."""
        ...


class Spread(Protocol):
    """Calls a function of a probe for several arguments on other processes, which have probes of their own."""

    def __call__(
        self, probe: Probe, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the index of each of ``arguments`` with ``function(probe, *arguments[index])``, as soon as it is known."""
        ...


@dataclass
class Probe:
    """Inputs of a sensitivity metric: the model, the images and the settings.

    Attributes:
        simulator: the simulated model, which quantizes one component or another.
        images: ``(N, C, H, W)``; no labels are needed.
        task: what the model's outputs mean.
        base: the allocation around which sensitivity is measured; components that it does not name stay in FP32.
        batch_size: images per forward pass.
        seed: random seed of the metrics that draw samples.
        keep_outputs: whether to cache the outputs of ``one_at_a_time`` for several metrics that use the same ones; the
            time they took counts as part of each such metric's ``seconds``.
        journal: where partial sums over batches are recorded; None disables the journal.
        spread: where independent parts of a measurement are computed; None for this process.
    """

    simulator: Simulator
    images: Tensor
    task: Task = CLASSIFICATION
    base: Decisions = field(default_factory=dict)
    batch_size: int = 24
    seed: int = 0
    keep_outputs: bool = False
    journal: Journal | None = None
    spread: Spread | None = None
    cached_outputs: dict[tuple[str, Choice], Tensor] = field(default_factory=dict, init=False, repr=False)
    cached_outputs_s: float = field(default=0.0, init=False)
    _reference: Tensor | None = field(default=None, init=False, repr=False)

    def reference(self) -> Tensor:
        """Return the FP32 outputs ``(N, ...)``; computed once."""
        if self._reference is None:
            self.simulator.apply({})
            self._reference = self.outputs()
            self.simulator.apply(self.base)
        return self._reference

    def call(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Yield the index of each of ``arguments`` with ``function(probe, *arguments[index])``, in order of completion."""
        if self.spread is not None:
            return self.spread(self, function, arguments)
        return ((index, function(self, *one)) for index, one in enumerate(arguments))

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """Return the outputs ``(N, ...)`` of the model as it is currently quantized."""
        device = next(self.simulator.model.parameters()).device
        return torch.cat([self.simulator.model(x.to(device)) for x in self.images.split(self.batch_size)])


class Metric(ABC):
    """Base class of sensitivity metrics: callers use ``measure``, subclasses implement ``_measure``."""

    name: ClassVar[str]
    #: whether errors are differences from the base allocation's error (its own choices have error 0), not from FP32's
    relative: ClassVar[bool] = False
    #: whether it is fast enough, and its errors complete enough, for a search to remeasure around each round's best allocation
    remeasured_each_round: ClassVar[bool] = False
    #: whether it is computed from outputs with one component changed at a time
    measures_outputs: ClassVar[bool] = False
    #: whether each error is computed independently, so that a partial journal can be resumed; not from sums over all choices
    piecewise: ClassVar[bool] = True
    #: whether its table holds more than errors, so that a journal of all errors cannot replace the measurement
    has_effects: ClassVar[bool] = False

    def measure(
        self,
        probe: Probe,
        choices: Choices,
        recall: Recall = lambda name, choice: None,
        record: Record = lambda name, choice, error: None,
    ) -> SensitivityTable:
        """Measure every choice of every component; the error of FP32 is 0 by definition.

        Args:
            probe: model and images.
            choices: component -> choices.
            recall: returns an error that a killed run has journaled already, or None.
            record: called with each new error as soon as it is known.

        Returns:
            The filled table.
        """
        start, cached_before = time.perf_counter(), probe.cached_outputs_s
        table = SensitivityTable(self.name)
        requested = [(name, choice) for name, options in choices.items() for choice in options if not choice.is_fp32]
        journaled = {pair: error for pair in requested if (error := recall(*pair)) is not None}
        missing = [pair for pair in requested if pair not in journaled]
        if not self.piecewise and (missing or self.has_effects):
            missing = requested
        for pair in requested:
            if pair in journaled:
                table.put(*pair, journaled[pair])
        to_measure: dict[str, list[Choice]] = {}
        for name, choice in missing:
            if probe.simulator.inventory[name].fixed:  # a constant has no errors of single images, and its bits are not searched
                table.put(name, choice, 0.0)
            else:
                to_measure.setdefault(name, []).append(choice)
        probe.simulator.apply(probe.base)
        if to_measure:
            for name, choice, error in self._measure(probe, to_measure, table):
                table.put(name, choice, error)
                if (name, choice) not in journaled:
                    record(name, choice, error)
        probe.simulator.apply({})
        table.seconds = time.perf_counter() - start
        if self.measures_outputs and cached_before == probe.cached_outputs_s:
            table.seconds += cached_before
        return table

    @abstractmethod
    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterable[Entry]:
        """Yield the errors to enter into ``table``; the simulator holds ``probe.base`` before and after."""


METRICS: Registry[Metric] = Registry("sensitivity metric")


def register(cls: type[Metric]) -> type[Metric]:
    """Register a metric under its name."""
    METRICS.add(cls.name, cls())
    return cls
