"""Sensitivity from the Hessian's trace, estimated by Hutchinson's method."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pmq.core.choice import Choice
from pmq.core.progress import track
from pmq.metrics.base import Entry, Metric, Probe, register
from pmq.metrics.passes import Recorder
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.quant.gradients import output_loss

#: random sign vectors per batch
DRAWS = 2


@register
class HessianTrace(Metric):
    """Half the mean Hessian diagonal of a component times the squared error of its values: HAWQ-V2 (1911.03852).

    The Hessian is that of the output's error against FP32. Its trace over a weight, or over an activation of one image, is
    the mean of ``v . H v`` over random signs ``v`` (Hutchinson), which takes two backward passes each. The signs of all
    components of a stage are drawn together: the cross terms between components are zero on average. Drawing the signs of
    the whole model together takes a tenth of the time, but the remaining noise of the cross terms drowns small traces. A
    trace below its standard error is replaced by the standard error.
    """

    name = "hawq"

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Entry]:
        simulator, generator = probe.simulator, torch.Generator().manual_seed(probe.seed)
        reference = probe.reference().split(8)
        components = [simulator.inventory[name] for name in choices]
        weights = {c.name: simulator.layer(c.name).weight for c in components if c.role == "weight"}
        device = next(simulator.model.parameters()).device
        traces: dict[str, list[float]] = {name: [] for name in choices}
        errors: dict[tuple[str, Choice], float] = {}
        frozen = [w for w in weights.values() if not w.requires_grad]
        for weight in frozen:
            weight.requires_grad_(True)
        # Only the math kernel of attention can be differentiated twice.
        with sdpa_kernel(SDPBackend.MATH), Recorder(simulator, probe.base, components) as recorder:
            for expected, batch in zip(reference, track(probe.images.split(8), "estimating traces"), strict=True):
                with torch.enable_grad():
                    output = recorder.run(batch.to(device))
                    points = {c.name: weights.get(c.name, recorder.outputs[c.name]) for c in components}
                    loss = output_loss(expected.to(device), output, probe.task).sum()
                    gradients = dict(
                        zip(points, torch.autograd.grad(loss, list(points.values()), create_graph=True), strict=True)
                    )
                    for stage in sorted({c.stage for c in components}):
                        names = [c.name for c in components if c.stage == stage]
                        for name, samples in _samples(names, gradients, points, generator).items():
                            traces[name] += [value / len(batch) for value in samples]
                with torch.no_grad():
                    for component in components:
                        options, share = choices[component.name], len(batch) / len(probe.images)
                        per_image = 1 if component.role == "weight" else len(batch)
                        for choice, d in zip(options, recorder.changes(component, options), strict=True):
                            error = float(d.double().square().sum()) / per_image * share
                            errors[component.name, choice] = errors.get((component.name, choice), 0.0) + error
        for weight in frozen:
            weight.requires_grad_(False)
        for (name, choice), error in errors.items():
            yield name, choice, 0.5 * _trace(traces[name]) / simulator.inventory[name].numel * error


def _samples(
    names: Sequence[str], gradients: Mapping[str, Tensor], points: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, list[float]]:
    """Return ``v . H v`` of each of ``names``, one value per draw; signs of ``names`` alone are drawn."""
    tensors = [points[name] for name in names]
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(DRAWS):
        signs = [(torch.randint(0, 2, t.shape, generator=generator) * 2 - 1).to(t) for t in tensors]
        product = torch.stack([(gradients[name] * v).sum() for name, v in zip(names, signs, strict=True)]).sum()
        hessians = torch.autograd.grad(product, tensors, retain_graph=True, allow_unused=True)
        for name, h, v in zip(names, hessians, signs, strict=True):
            samples[name].append(0.0 if h is None else float((h * v).sum().detach()))
    return samples


def _trace(samples: list[float]) -> float:
    """Return the mean of the samples, or their standard error where the mean is smaller or negative."""
    return max(statistics.fmean(samples), statistics.stdev(samples) / len(samples) ** 0.5)
