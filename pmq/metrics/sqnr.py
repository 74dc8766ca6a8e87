"""Local sensitivity: quantization noise relative to the signal at the component itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from pmq.core.choice import Choice
from pmq.core.progress import track
from pmq.metrics.base import Entry, Metric, Probe, register
from pmq.metrics.passes import Recorder
from pmq.metrics.sensitivity_table import SensitivityTable


@register
class NoiseToSignal(Metric):
    """Inverse signal-to-quantization-noise ratio, of a weight at its layer's output, of an activation at itself.

    It considers neither other layers nor the model's output. Layer-wise tools (PPQ, AIMET) rank by it.
    """

    name = "sqnr"

    @torch.no_grad()
    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Entry]:
        simulator = probe.simulator
        components = [simulator.inventory[name] for name in choices]
        device = next(simulator.model.parameters()).device
        noise: dict[tuple[str, Choice], float] = {}
        signal: dict[str, float] = {}
        with Recorder(simulator, probe.base, components) as recorder:
            for batch in track(probe.images.split(probe.batch_size), "estimating sensitivity"):
                recorder.run(batch.to(device))
                for component in components:
                    name, output = component.name, recorder.outputs[component.name]
                    signal[name] = signal.get(name, 0.0) + float(output.double().square().sum())
                    for choice, d in zip(choices[name], recorder.changes(component, choices[name]), strict=True):
                        error = recorder.output_change(component, d) if component.role == "weight" else d
                        noise[name, choice] = noise.get((name, choice), 0.0) + float(error.double().square().sum())
        for (name, choice), value in noise.items():
            yield name, choice, value / max(signal[name], 1e-30)
