"""The Hessian's trace by Hutchinson's estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pmq.core.choice import Choice
from pmq.core.progress import track
from pmq.quant.gradients import output_loss
from pmq.sensitivity.base import Metric, Probe, register
from pmq.sensitivity.passes import Recorder

#: random vectors for each batch
DRAWS = 16


@register
class HessianTrace(Metric):
    """Half the mean of the Hessian's diagonal over a component times the squared error of its values: HAWQ-V2 (1911.03852).

    The Hessian is that of the output's error against FP32, its trace over a weight, or over an activation of one image,
    the mean of ``v . H v`` over random signs ``v`` (Hutchinson), with two backward passes each. Signs of all components
    are drawn at once: what one of them adds to another's product is zero on average.
    """

    name = "hawq"

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]]) -> Iterator[tuple[str, Choice, float]]:
        simulator, generator = probe.simulator, torch.Generator().manual_seed(probe.seed)
        reference = probe.reference().split(8)
        components = [simulator.inventory[name] for name in choices]
        weights = {c.name: simulator.instrument.layer(c.name).weight for c in components if c.role == "weight"}
        device = next(simulator.model.parameters()).device
        traces = dict.fromkeys(choices, 0.0)
        errors: dict[tuple[str, Choice], float] = {}
        frozen = [w for w in weights.values() if not w.requires_grad]
        for weight in frozen:
            weight.requires_grad_(True)
        with sdpa_kernel(SDPBackend.MATH), Recorder(simulator, probe.base, components) as recorder:  # others bend once only
            for wanted, batch in zip(reference, track(probe.images.split(8), "estimating traces"), strict=True):
                with torch.enable_grad():
                    output = recorder.run(batch.to(device))
                    points = {c.name: weights.get(c.name, recorder.outputs[c.name]) for c in components}
                    loss = output_loss(wanted.to(device), output, probe.classifier).sum()
                    for name, value in _traces(loss, points, generator).items():
                        traces[name] += value / len(probe.images)
                with torch.no_grad():
                    for component in components:
                        row, share = choices[component.name], len(batch) / len(probe.images)
                        per_image = 1 if component.role == "weight" else len(batch)
                        for choice, d in zip(row, recorder.changes(component, row), strict=True):
                            error = float(d.double().square().sum()) / per_image * share
                            errors[component.name, choice] = errors.get((component.name, choice), 0.0) + error
        for weight in frozen:
            weight.requires_grad_(False)
        for (name, choice), error in errors.items():
            # A sum over few draws can be negative where curvature is small; an error cannot.
            yield name, choice, 0.5 * max(traces[name], 0.0) / simulator.inventory[name].numel * error


def _traces(loss: Tensor, points: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, float]:
    """Trace of the loss's Hessian over each of ``points``."""
    tensors = list(points.values())
    gradients = torch.autograd.grad(loss, tensors, create_graph=True)
    totals = [0.0] * len(tensors)
    for draw in range(DRAWS):
        signs = [(torch.randint(0, 2, t.shape, generator=generator) * 2 - 1).to(t) for t in tensors]
        product = torch.stack([(g * v).sum() for g, v in zip(gradients, signs, strict=True)]).sum()
        hessians = torch.autograd.grad(product, tensors, retain_graph=draw < DRAWS - 1, allow_unused=True)
        for i, (h, v) in enumerate(zip(hessians, signs, strict=True)):
            totals[i] += 0.0 if h is None else float((h * v).sum().detach()) / DRAWS
    return dict(zip(points, totals, strict=True))
