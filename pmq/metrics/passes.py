"""Forward passes around an allocation that record what gradient metrics need: quantizer inputs and component outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.choice import FLOAT, Choice, Decisions, bits_of
from pmq.core.component import Component
from pmq.core.memory import release_freed_memory
from pmq.core.progress import track
from pmq.graph import TapFunction
from pmq.metrics.base import Entry, Probe
from pmq.quant import Simulator
from pmq.quant.compensation import has_rows, output_rows, rows_of
from pmq.quant.gradients import gradients_by_stage
from pmq.quant.threads import in_threads

#: maximum number of images per batch
BATCH = 4


class _StraightThrough(torch.autograd.Function):
    """Quantizer with a straight-through gradient (1308.3432): the gradient of rounding itself is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: TapFunction) -> Tensor:
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


class Recorder:
    """Runs a model under ``base`` and records the tensors that gradient metrics need of each component.

    Args:
        simulator: simulator of the model, quantized by ``base``.
        base: the allocation around which sensitivity is measured.
        components: the components to record.
        relative: whether :meth:`changes` are relative to the base, or to FP32 in the context of the base.

    Attributes:
        inputs: for an activation, its quantizer's input; for a weight, the input that its layer multiplies with it.
        outputs: for an activation, the tensor that the model continues with; for a weight, its layer's output. They are
            part of the autograd graph.
    """

    def __init__(self, simulator: Simulator, base: Decisions, components: Sequence[Component], relative: bool = False) -> None:
        self.simulator, self.base, self.components, self.relative = simulator, base, components, relative
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self._weights = [c for c in components if c.role == "weight"]
        # All activations that the base quantizes are quantized straight-through, whether they are measured or not.
        measured = {c.name for c in components}
        tapped = (c for c in simulator.inventory if c.role == "activation" and (c.name in measured or not self._is_fp32(c)))
        self._taps = {c.name: self._tap(c) for c in tapped}

    def _is_fp32(self, component: Component) -> bool:
        return component.name not in self.base or self.base[component.name].is_fp32

    def _tap(self, component: Component) -> TapFunction:
        choice = bits_of(self.base).get(component.name, FLOAT)
        quantizer = None if choice.is_fp32 else self.simulator.quantizer(component, choice)

        def tap(x: Tensor) -> Tensor:
            # A view, as gradients shall be those of this reader of the tensor, not of its other readers.
            y: Tensor = x.view_as(x) if quantizer is None else _StraightThrough.apply(x, quantizer)
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
            self.simulator.set_activation(name, tap)
        layers = [(c, self.simulator.layer(c.name)) for c in self._weights]
        self._handles = [layer.register_forward_hook(self._hook(c)) for c, layer in layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for name in self._taps:
            self.simulator.reset(name)

    def run(self, batch: Tensor) -> Tensor:
        """Run images ``(B, C, H, W)``; the output's graph reaches every recorded output."""
        self.inputs.clear()
        self.outputs.clear()
        output: Tensor = self.simulator.model(batch.clone().requires_grad_())
        return output

    def forget(self, components: Sequence[Component]) -> None:
        """Release the recorded tensors of ``components``."""
        for component in components:
            self.inputs.pop(component.name, None)
            self.outputs.pop(component.name, None)

    def changes(self, component: Component, choices: Sequence[Choice]) -> Iterator[Tensor]:
        """Yield what each choice adds to the component, in the component's shape."""
        simulator, name = self.simulator, component.name
        if component.role == "weight":
            exact, now = simulator.exact(component), simulator.layer(name).weight.detach()
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
        """Return the input rows of a weight, image by image: ``(B, T, I)``; windows of an image are adjacent."""
        layer = self.simulator.layer(component.name)
        return rows_of(layer, self.inputs[component.name]).unflatten(0, (n_images, -1))

    def has_rows(self, component: Component) -> bool:
        """Return whether the weight's layer multiplies rows by the weight."""
        return has_rows(self.simulator.layer(component.name))

    def output_change(self, component: Component, change: Tensor) -> Tensor:
        """Return what a change of a weight adds to its layer's output."""
        layer = self.simulator.layer(component.name)
        return layer.operator(self.inputs[component.name], change, None, *layer.settings)

    def weight_gradient(self, component: Component, gradient: Tensor) -> Tensor:
        """Return the gradient of a weight, summed over all images, given the gradient of its layer's output."""
        weight = torch.zeros_like(self.simulator.exact(component)).requires_grad_()
        with torch.enable_grad():
            (weight_gradient,) = torch.autograd.grad(self.output_change(component, weight), weight, gradient)
        return weight_gradient

    def by_image(self, component: Component, values: Tensor, n_images: int) -> Tensor:
        """Rearrange values shaped like an activation image by image: ``(B, K)``."""
        return self.simulator.images_first(component.name, values).reshape(n_images, -1)

    def output_rows(self, component: Component, like_output: Tensor, n_images: int) -> Tensor:
        """Rearrange values shaped like the output of a weight's layer into rows, image by image: ``(B, T, O)``."""
        layer = self.simulator.layer(component.name)
        return output_rows(layer, like_output).unflatten(0, (n_images, -1))


def inner_products(
    recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int
) -> Tensor:
    """Return ``g . d`` for each choice, draw and image: ``(choices, draws, images)``.

    ``gradients`` are ``(draws, ...)`` at the component's output. The product is computed where it is cheapest: for an
    activation at the activation itself, for a weight as the image's weight gradient times the weight's change.
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


def table_entries(totals: Mapping[str, Tensor], choices: Mapping[str, list[Choice]], factor: float) -> Iterator[Entry]:
    """Yield table entries from sums over all images ``(choices,)``, multiplied by ``factor``."""
    for name, row in choices.items():
        yield from ((name, choice, factor * total) for choice, total in zip(row, totals[name].tolist(), strict=True))


#: function that returns the losses of a batch, given the index of its first image and the model's output
Losses = Callable[[int, Tensor], list[Tensor]]
#: function that returns the scores of a component's choices on a batch ``(choices, ...)``, given the change that each choice
#: makes, the gradients of the losses at the component's output ``(losses, ...)``, and the number of images
Score = Callable[[Recorder, Component, Sequence[Tensor], Tensor, int], Tensor]


def sum_scores(
    probe: Probe, choices: Mapping[str, list[Choice]], losses_of: Callable[[Probe], Losses], score: Score, relative: bool = False
) -> dict[str, Tensor]:
    """Sum the scores ``(choices, ...)`` of each component over all images.

    This takes one forward pass per batch and one backward pass per loss, for all components together. ``losses_of`` returns the
    losses of a probe; it and ``score`` are functions of modules, as batches may be spread over processes. ``relative`` is as
    in :class:`Recorder`. If the probe has a journal, each batch is journaled as soon as it is done.
    """
    sums: dict[int, dict[str, Tensor]] = {}
    firsts = range(0, len(probe.images), _batch_size(probe))
    for first in firsts:
        known = probe.journal.recall(f"from image {first}") if probe.journal else None
        if known is not None:
            sums[first] = {name: torch.tensor(score_sums, dtype=torch.float64) for name, score_sums in known.items()}
    missing = [first for first in firsts if first not in sums]
    done = probe.call(scores_from, [(first, choices, losses_of, score, relative) for first in missing])
    for index, batch_sums in track(done, "estimating sensitivity", len(missing)):
        if probe.journal:
            recorded = {name: score_sums.tolist() for name, score_sums in batch_sums.items()}
            probe.journal.record(f"from image {missing[index]}", recorded)
        sums[missing[index]] = batch_sums
    totals: dict[str, Tensor] = {}
    for first in firsts:  # in this order, whatever order they were computed in
        for name, score_sums in sums[first].items():
            totals[name] = totals[name] + score_sums if name in totals else score_sums
    return totals


def _batch_size(probe: Probe) -> int:
    """Return the number of images per batch, which is small because gradients of whole weights are held for each image."""
    return 1 if probe.simulator.model.closed else min(probe.batch_size, BATCH)


def scores_from(
    probe: Probe,
    first: int,
    choices: Mapping[str, list[Choice]],
    losses_of: Callable[[Probe], Losses],
    score: Score,
    relative: bool,
) -> dict[str, Tensor]:
    """Return the scores ``(choices, ...)`` of each component, summed over the batch that begins with image ``first``."""
    release_freed_memory()
    simulator, losses = probe.simulator, losses_of(probe)
    batch = probe.images[first : first + _batch_size(probe)].to(next(simulator.model.parameters()).device)
    components = [simulator.inventory[name] for name in choices]
    with Recorder(simulator, probe.base, components, relative) as recorder:
        return _batch_scores(recorder, components, choices, batch, partial(losses, first), score)


def _batch_scores(
    recorder: Recorder,
    components: Sequence[Component],
    choices: Mapping[str, list[Choice]],
    images: Tensor,
    losses: Callable[[Tensor], list[Tensor]],
    score: Score,
) -> dict[str, Tensor]:
    """Return the scores ``(choices, ...)`` of each component, summed over a batch."""
    by_stage: dict[int, list[Component]] = defaultdict(list)
    for component in components:
        by_stage[component.stage].append(component)
    sums: dict[str, Tensor] = {}
    stages = gradients_by_stage(
        recorder.simulator.model, images, losses, lambda stage: [recorder.outputs[c.name] for c in by_stage[stage]]
    )
    for stage, gradients in stages:

        def scores_at(index: int, at: list[Component] = by_stage[stage], of_losses: list[list[Tensor]] = gradients) -> Tensor:
            with torch.no_grad():
                g = torch.stack([of_loss[index] for of_loss in of_losses])
                changes = list(recorder.changes(at[index], choices[at[index].name]))
                return score(recorder, at[index], changes, g, len(images)).double().cpu()

        indices = range(len(by_stage[stage]))
        scores = in_threads(scores_at, indices, images.device)
        sums |= {component.name: of_choices for component, of_choices in zip(by_stage[stage], scores, strict=True)}
        recorder.forget(by_stage[stage])
    return {component.name: sums[component.name] for component in components}
