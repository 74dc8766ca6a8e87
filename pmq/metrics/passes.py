"""A forward pass around any allocation that shows what gradient metrics need: what quantizers get, what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.choice import FLOAT, Choice, Decisions, bits_of
from pmq.core.component import Component
from pmq.core.progress import track
from pmq.graph import TapFunction
from pmq.metrics.base import Found, Probe
from pmq.quant import Simulator
from pmq.quant.compensation import has_rows, output_rows, rows_of

#: images at once, at most
BATCH = 8


class _StraightThrough(torch.autograd.Function):
    """A quantizer whose gradient is that of doing nothing (1308.3432): rounding itself has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: TapFunction) -> Tensor:
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


class Recorder:
    """Runs a model under ``base`` and keeps, of each component, what changes of it act on and what gradients are wanted of.

    Args:
        simulator: quantized by ``base``.
        base: the allocation around which to measure.
        components: which are looked at.
        relative: whether :meth:`changes` are beside the base, or beside FP32 in the context of the base.

    Attributes:
        inputs: what the quantizer of an activation gets; what the layer of a weight multiplies with it.
        outputs: an activation as the model goes on with it; a layer's output for its weight. In the graph.
    """

    def __init__(self, simulator: Simulator, base: Decisions, components: Sequence[Component], relative: bool = False) -> None:
        self.simulator, self.base, self.components, self.relative = simulator, base, components, relative
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self._weights = [c for c in components if c.role == "weight"]
        # All activations of the base are quantized straight-through, whether a change of them is asked for or not.
        wanted = {c.name for c in components}
        tapped = (c for c in simulator.inventory if c.role == "activation" and (c.name in wanted or not self._is_fp32(c)))
        self._taps = {c.name: self._tap(c) for c in tapped}

    def _is_fp32(self, component: Component) -> bool:
        return component.name not in self.base or self.base[component.name].is_fp32

    def _tap(self, component: Component) -> TapFunction:
        choice = bits_of(self.base).get(component.name, FLOAT)
        quantizer = None if choice.is_fp32 else self.simulator.quantizer(component, choice)

        def tap(x: Tensor) -> Tensor:
            y: Tensor = x if quantizer is None else _StraightThrough.apply(x, quantizer)
            self.inputs[component.name], self.outputs[component.name] = x.detach(), y
            return y

        return tap

    def _hook(self, component: Component) -> Any:
        source = f"{component.module}.input"

        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            self.inputs[component.name] = self.outputs.get(source, args[0]).detach()
            self.outputs[component.name] = output

        return hook

    def __enter__(self) -> Recorder:
        for name, tap in self._taps.items():
            self.simulator.instrument.set_activation(name, tap)
        layers = [(c, self.simulator.instrument.layer(c.name)) for c in self._weights]
        self._handles = [layer.register_forward_hook(self._hook(c)) for c, layer in layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for name in self._taps:
            self.simulator.reset(name)

    def run(self, batch: Tensor) -> Tensor:
        """Run ``(B, C, H, W)``; the output has a graph that reaches every output kept."""
        self.inputs.clear()
        self.outputs.clear()
        output: Tensor = self.simulator.model(batch.clone().requires_grad_())
        return output

    def changes(self, component: Component, choices: Sequence[Choice]) -> Iterator[Tensor]:
        """What each choice adds to the component, shaped like it."""
        simulator, name = self.simulator, component.name
        if component.role == "weight":
            exact, now = simulator.exact(component), simulator.instrument.layer(name).weight.detach()
        else:
            exact, now = self.inputs[name], self.outputs[name].detach()
        for choice in choices:
            if choice.is_fp32:
                changed = exact
            elif component.role == "weight":
                changed = simulator.weight(component, choice)
            else:
                changed = simulator.quantizer(component, choice)(exact)
            yield changed - (now if self.relative else exact)

    def rows(self, component: Component, n_images: int) -> Tensor:
        """Input rows of a weight, image by image: ``(B, T, I)``. Windows of an image are neighbours."""
        layer = self.simulator.instrument.layer(component.name)
        return rows_of(layer, self.inputs[component.name]).unflatten(0, (n_images, -1))

    def has_rows(self, component: Component) -> bool:
        """Whether a weight multiplies rows."""
        return has_rows(self.simulator.instrument.layer(component.name))

    def output_change(self, component: Component, change: Tensor) -> Tensor:
        """What the change of a weight adds to its layer's output."""
        layer = self.simulator.instrument.layer(component.name)
        return layer.operator(self.inputs[component.name], change, None, *layer.settings)

    def weight_gradient(self, component: Component, gradient: Tensor) -> Tensor:
        """Gradient of a weight, given that of its layer's output, summed over all images."""
        weight = torch.zeros_like(self.simulator.exact(component)).requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self.output_change(component, weight), weight, gradient)
        return found

    def by_image(self, component: Component, values: Tensor, n_images: int) -> Tensor:
        """Lay what is shaped like an activation out image by image: ``(B, K)``."""
        return self.simulator.instrument.images_first(component.name, values).reshape(n_images, -1)

    def output_rows(self, component: Component, like_output: Tensor, n_images: int) -> Tensor:
        """What is shaped like the output of a weight's layer as rows, image by image: ``(B, T, O)``."""
        layer = self.simulator.instrument.layer(component.name)
        return output_rows(layer, like_output).unflatten(0, (n_images, -1))


def inner_products(
    recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int
) -> Tensor:
    """``g . d`` for each choice, draw and image: gradients ``(draws, ...)`` at the output -> ``(choices, draws, images)``.

    The product is taken where it is cheapest: for an activation at the activation itself, for a weight as the image's
    weight gradient times the weight's change.
    """
    draws = gradients.shape[0]
    if component.role == "activation":
        flat = torch.stack([recorder.by_image(component, draw, n_images) for draw in gradients])
        return torch.stack([(flat * recorder.by_image(component, d, n_images)).sum(-1) for d in changes])
    if not recorder.has_rows(component):
        flat = gradients.reshape(draws, n_images, -1)
        return torch.stack([(flat * recorder.output_change(component, d).reshape(n_images, -1)).sum(-1) for d in changes])
    delta = torch.stack([d.reshape(-1) for d in changes], 1)
    g = torch.stack([recorder.output_rows(component, draw, n_images) for draw in gradients])
    by_image = torch.einsum("dbno,bni->dboi", g, recorder.rows(component, n_images)).reshape(draws * n_images, -1)
    return (by_image @ delta).reshape(draws, n_images, -1).permute(2, 0, 1)


def entries(totals: Mapping[str, Tensor], choices: Mapping[str, list[Choice]], factor: float) -> Iterator[Found]:
    """Sums over all images ``(choices,)`` as entries of a table, times ``factor``."""
    for name, row in choices.items():
        yield from ((name, choice, factor * total) for choice, total in zip(row, totals[name].tolist(), strict=True))


#: losses of a batch, from the number of its first image and the model's output
Losses = Callable[[int, Tensor], list[Tensor]]
#: what each choice of a component scores on a batch ``(choices, ...)``, from what the choices change and the gradients of
#: the losses ``(losses, ...)`` at the component's output; and the number of images
Score = Callable[[Recorder, Component, Sequence[Tensor], Tensor, int], Tensor]


def scored(
    probe: Probe, choices: Mapping[str, list[Choice]], losses: Losses, score: Score, relative: bool = False
) -> dict[str, Tensor]:
    """Sum scores ``(choices, ...)`` of each component over all images.

    That takes one forward pass a batch and one backward pass a loss, for all components at once. ``relative`` is as in
    :class:`Recorder`. Each batch is journaled as soon as it is done, where the probe has a journal.
    """
    simulator = probe.simulator
    components = [simulator.inventory[name] for name in choices]
    device = next(simulator.model.parameters()).device
    totals: dict[str, Tensor] = {}
    # Gradients of whole weights are kept for each image, so batches are small.
    batches = probe.images.split(1 if probe.simulator.model.closed else min(probe.batch_size, BATCH))
    with Recorder(simulator, probe.base, components, relative) as recorder:
        for number, batch in enumerate(track(batches, "estimating sensitivity")):
            first = number * len(batches[0])
            known = probe.journal.recall(f"from image {first}") if probe.journal else None
            if known is not None:
                sums = {name: torch.tensor(of, dtype=torch.float64) for name, of in known.items()}
            else:
                sums = _sums(recorder, components, choices, batch.to(device), partial(losses, first), score)
                if probe.journal:
                    probe.journal.record(f"from image {first}", {name: of.tolist() for name, of in sums.items()})
            for name, of in sums.items():
                totals[name] = totals[name] + of if name in totals else of
    return totals


def _sums(
    recorder: Recorder,
    components: Sequence[Component],
    choices: Mapping[str, list[Choice]],
    images: Tensor,
    losses: Callable[[Tensor], list[Tensor]],
    score: Score,
) -> dict[str, Tensor]:
    """Scores ``(choices, ...)`` of each component, summed over a batch."""
    with torch.enable_grad():
        output = recorder.run(images)
        wanted = [recorder.outputs[c.name] for c in components]
        each = losses(output)
        gradients = [torch.autograd.grad(loss, wanted, retain_graph=loss is not each[-1]) for loss in each]
    sums = {}
    with torch.no_grad():
        for index, component in enumerate(components):
            g = torch.stack([of_loss[index] for of_loss in gradients])
            changes = list(recorder.changes(component, choices[component.name]))
            sums[component.name] = score(recorder, component, changes, g, len(images)).double().cpu()
    return sums
