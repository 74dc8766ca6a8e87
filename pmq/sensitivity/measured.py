"""Measured sensitivity: quantize one component, run the model, look at its output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pmq.core.choice import FLOAT, Choice
from pmq.core.progress import track
from pmq.quant import Simulator, output_error
from pmq.sensitivity.base import Metric, Probe, register


@register
class OneAtATime(Metric):
    """Mean KL divergence at the output between the base allocation and the base with one component changed.

    The forward pass restarts at the stage that holds the component, from that stage's cached input: half the work on
    average. Components go stage by stage, so that only one stage's input is held at a time beside the reference.
    """

    name = "measured"

    @torch.no_grad()
    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]]) -> Iterator[tuple[str, Choice, float]]:
        simulator = probe.simulator
        device = next(simulator.model.parameters()).device
        inputs = [batch.to(device) for batch in probe.images.split(probe.batch_size)]
        reference = [simulator.run(x) for x in inputs]
        at = 0
        pairs = [(simulator.inventory[name], choice) for name, row in choices.items() for choice in row]
        pairs.sort(key=lambda pair: pair[0].stage)  # stable: model order within a stage
        for component, choice in track(pairs, "measuring sensitivity"):
            if component.stage != at:
                inputs = [simulator.run(x, at, component.stage) for x in inputs]
                at = component.stage
            simulator.set(component.name, choice)
            try:
                error = _mean_error(simulator, at, inputs, reference, probe.classifier)
            finally:
                simulator.set(component.name, probe.base.get(component.name, FLOAT))
            yield component.name, choice, error


def _mean_error(simulator: Simulator, at: int, inputs: list[Tensor], reference: list[Tensor], classifier: bool) -> float:
    errors = [output_error(r, simulator.run(x, at), classifier) for x, r in zip(inputs, reference, strict=True)]
    return float(torch.cat(errors).mean())
