"""Measured sensitivity: change one component, run the model and compare its outputs."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pmq.core.choice import FLOAT, Choice
from pmq.core.progress import track
from pmq.metrics.base import Entry, Metric, Probe, register
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.quant import output_error

#: number of pairs of a component and a choice that one process measures after it has computed the input of their stage
CHUNK = 16


@torch.no_grad()
def one_at_a_time(probe: Probe, choices: Mapping[str, list[Choice]]) -> Iterator[tuple[str, Choice, Tensor]]:
    """Yield the outputs ``(N, ...)`` of the base with one component changed, for each component and choice.

    The forward pass restarts at the stage that holds the component, from that stage's cached input, which halves the work
    on average. Components are processed stage by stage, so that only one stage's input is held at a time.
    """
    if probe.keep_outputs:
        cached = probe.cached_outputs
        missing = {n: new for n, options in choices.items() if (new := [c for c in options if (n, c) not in cached])}
        start = time.perf_counter()
        probe.cached_outputs |= {(name, choice): output for name, choice, output in _changed_outputs(probe, missing)}
        probe.cached_outputs_s += time.perf_counter() - start if missing else 0.0
        yield from ((name, choice, probe.cached_outputs[name, choice]) for name, options in choices.items() for choice in options)
    else:
        yield from _changed_outputs(probe, choices)


def _changed_outputs(probe: Probe, choices: Mapping[str, list[Choice]]) -> Iterator[tuple[str, Choice, Tensor]]:
    pairs = [(name, choice) for name, options in choices.items() for choice in options]
    pairs.sort(key=lambda pair: probe.simulator.inventory[pair[0]].stage)  # stable: model order within a stage
    if probe.spread is None:
        yield from _outputs_of(probe, track(pairs, "measuring sensitivity"))
        return
    chunks = [pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK)]
    done: dict[int, list[Tensor]] = {}
    following = 0
    measured = probe.call(outputs_of_chunk, [(chunk,) for chunk in chunks])
    for index, outputs in track(measured, "measuring sensitivity", len(chunks)):
        done[index] = outputs
        while following in done:  # in the order in which one process measures
            for (name, choice), output in zip(chunks[following], done.pop(following), strict=True):
                yield name, choice, output
            following += 1


def outputs_of_chunk(probe: Probe, pairs: Sequence[tuple[str, Choice]]) -> list[Tensor]:
    """Return the outputs ``(N, ...)`` of the base with one component changed, for pairs of a component and a choice."""
    with torch.no_grad():
        return [output for *_, output in _outputs_of(probe, pairs)]


def _outputs_of(probe: Probe, pairs: Iterable[tuple[str, Choice]]) -> Iterator[tuple[str, Choice, Tensor]]:
    """Yield the outputs of pairs that are in the order of stages."""
    simulator = probe.simulator
    device = next(simulator.model.parameters()).device
    inputs = [batch.to(device) for batch in probe.images.split(probe.batch_size)]
    stage = 0
    for name, choice in pairs:
        component = simulator.inventory[name]
        if component.stage != stage:
            inputs = [simulator.run(x, stage, component.stage) for x in inputs]
            stage = component.stage
        simulator.set(name, choice)
        try:
            outputs = [simulator.run(x, stage) for x in inputs]
        finally:
            simulator.set(name, probe.base.get(name, FLOAT))
        yield name, choice, torch.cat(outputs)


class _OutputMetric(Metric):
    """Mean error of the outputs with one component changed, minus that of the base itself (zero around FP32)."""

    relative = True
    measures_outputs = True

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Entry]:
        reference = probe.reference()
        start = float(self._errors(reference, probe.outputs(), probe).mean())
        for name, choice, output in one_at_a_time(probe, choices):
            yield name, choice, float(self._errors(reference, output, probe).mean()) - start

    @abstractmethod
    def _errors(self, reference: Tensor, output: Tensor, probe: Probe) -> Tensor:
        """Return the error of each image ``(N,)``."""


@register
class OneAtATime(_OutputMetric):
    """Mean KL divergence from FP32 with one component changed, minus that of the base itself."""

    name = "measured"

    def _errors(self, reference: Tensor, output: Tensor, probe: Probe) -> Tensor:
        return output_error(reference, output, probe.task)


@register
class OutputDistance(_OutputMetric):
    """Mean squared distance of the outputs from FP32's with one component changed, minus that of the base itself."""

    name = "l2"

    def _errors(self, reference: Tensor, output: Tensor, probe: Probe) -> Tensor:
        return (output - reference).flatten(1).square().sum(1)
