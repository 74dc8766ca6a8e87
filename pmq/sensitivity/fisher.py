"""Estimated sensitivity: empirical Fisher information from a few backward passes, for all components at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.choice import Choice
from pmq.core.component import Component
from pmq.core.errors import PmqError
from pmq.core.progress import track
from pmq.quant import Simulator
from pmq.quant.compensation import output_rows, rows_of
from pmq.quant.gradients import DRAWS, log_likelihoods
from pmq.quant.instrument import TapFunction
from pmq.sensitivity.base import Metric, Probe, register


@register
class EmpiricalFisher(Metric):
    """Half the mean of ``(g . d)**2`` over images and drawn labels.

    ``g`` is the gradient, at a component's output, of the log-likelihood of a label drawn from the model's own softmax;
    ``d`` is the error of that output when the component is quantized. This is the second-order expansion of the KL
    divergence whose Hessian is the Fisher information. The inner product is taken where it is cheapest: for an
    activation at the activation itself, for a weight as the image's weight gradient times the weight's error. A feature
    extractor has no labels: random directions in the space of its features take their place.
    """

    name = "fisher"

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]]) -> Iterator[tuple[str, Choice, float]]:
        if any(not choice.is_float for choice in probe.base.values()):
            raise PmqError("the fisher metric measures around FP32 only: rounding has no gradient; use 'measured'")
        generator = torch.Generator().manual_seed(probe.seed)
        totals: dict[tuple[str, Choice], float] = {}
        batches = probe.images.split(min(probe.batch_size, 8))  # gradients of whole weights are kept for each image
        for batch in track(batches, "estimating sensitivity"):
            for name, squared in _squared_products(probe, batch, choices, generator).items():
                for choice, value in zip(choices[name], squared.tolist(), strict=True):
                    totals[name, choice] = totals.get((name, choice), 0.0) + value
        for (name, choice), total in totals.items():
            yield name, choice, 0.5 * total / (DRAWS * len(probe.images))


def _squared_products(
    probe: Probe, batch: Tensor, choices: Mapping[str, list[Choice]], generator: torch.Generator
) -> dict[str, Tensor]:
    """Sum over images and draws of ``(g . d)**2``: component -> ``(choices,)``."""
    simulator = probe.simulator
    components = [simulator.inventory[name] for name in choices]
    batch = batch.to(next(simulator.model.parameters()).device)
    with torch.enable_grad(), _Recorder(simulator, components) as recorder:
        output = simulator.model(batch.clone().requires_grad_())
        wanted = [recorder.outputs[c.name] for c in components]
        losses = log_likelihoods(output, probe.classifier, generator)
        gradients = [torch.autograd.grad(loss, wanted, retain_graph=loss is not losses[-1]) for loss in losses]
    result: dict[str, Tensor] = {}
    with torch.no_grad():
        for index, component in enumerate(components):
            g = torch.stack([draw[index] for draw in gradients])
            x = recorder.inputs[component.name]
            products = _products(simulator, component, choices[component.name], x, g, len(batch))
            result[component.name] = products.square().sum((1, 2))
    return result


class _Recorder:
    """Keeps, during a forward pass, the tensors whose gradients are wanted and the inputs of weights."""

    def __init__(self, simulator: Simulator, components: list[Component]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self._instrument = simulator.instrument
        self._activations = [c.name for c in components if c.role == "activation"]
        self._handles = [
            simulator.model.get_submodule(c.module).register_forward_hook(self._weight_hook(c.name))
            for c in components
            if c.role == "weight"
        ]

    def _weight_hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            self.inputs[name], self.outputs[name] = args[0].detach(), output

        return hook

    def _tap(self, name: str) -> TapFunction:
        def record(x: Tensor) -> Tensor:
            self.inputs[name], self.outputs[name] = x.detach(), x
            return x

        return record

    def __enter__(self) -> _Recorder:
        for name in self._activations:
            self._instrument.set_activation(name, self._tap(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._activations:
            self._instrument.set_activation(name, None)
        for handle in self._handles:
            handle.remove()


def _products(simulator: Simulator, component: Component, row: list[Choice], x: Tensor, g: Tensor, n_images: int) -> Tensor:
    """``g . d`` for each choice, draw and image: ``(choices, draws, images)``. Windows of an image are neighbours."""
    draws = g.shape[0]
    if component.role == "activation":
        flat = g.reshape(draws, n_images, -1)
        errors = ((simulator.quantizer(component, c)(x) - x).reshape(n_images, -1) for c in row)
        return torch.stack([(flat * d).sum(-1) for d in errors])
    weight = simulator.instrument.weights[component.name].detach()
    delta = torch.stack([(simulator.weight(component, c) - weight).reshape(-1) for c in row], 1)
    layer = simulator.instrument.layer(component.name)
    x = rows_of(layer, x).unflatten(0, (n_images, -1))
    g = torch.stack([output_rows(layer, draw).unflatten(0, (n_images, -1)) for draw in g])
    gradients = torch.einsum("dbno,bni->dboi", g, x).reshape(draws * n_images, -1)
    return (gradients @ delta).reshape(draws, n_images, -1).permute(2, 0, 1)
