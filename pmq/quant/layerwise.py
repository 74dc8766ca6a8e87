"""Layer-by-layer quantization, in which each layer accounts for the quantization error of all earlier layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.choice import FLOAT, FLOATS, Choice
from pmq.core.component import Component
from pmq.core.errors import PmqError
from pmq.core.patches import PatchMap
from pmq.core.progress import track
from pmq.core.recipe import Recipe
from pmq.core.task import CLASSIFICATION, Task
from pmq.graph import TapFunction
from pmq.models.outputs import to_logits
from pmq.quant.calibration import BATCH
from pmq.quant.compensation import (
    Compensator,
    RowMean,
    SecondMoment,
    has_rows,
    logit_scale,
    output_rows,
    ridge_corrected,
    rows_of,
)
from pmq.quant.compensation.moments import EVEN
from pmq.quant.quantizers import Quantizer
from pmq.quant.reconstruction import Checkpoints, Streams, learn_block, row_weights
from pmq.quant.samples import Samples, largest_in_token
from pmq.quant.simulator import Simulator
from pmq.quant.spill import Spill
from pmq.quant.stream import Heard, Stream
from pmq.quant.token_samples import TokenSamples
from pmq.quant.tokens import TokenTaps
from pmq.quant.weights import QuantizedWeight, quantize_weight


class LayerwiseQuantizer:
    """Quantizer of a model, stage by stage, with two parallel streams of activations: FP32 and quantized.

    In call order, each activation's quantizer is refitted to the quantized stream, each weight is rounded with compensation on
    its quantized inputs, and each bias is set so that the mean of the layer's output equals that of FP32; at the end the
    logits are scaled. Rows are weighted by their squared gradient. Everything except that scale is a closed-form function of
    streamed sums; activations between stages are stored on disk.

    Args:
        simulator: simulator on a copy of the model, calibrated with gradients; the model remains quantized, including its biases.
        images: calibration images ``(N, C, H, W)`` in the order of the calibration.
        recipe: recipe that selects the steps.
        checkpoints: folder for finished blocks of reconstruction, or ``None``.
        patches: bits of single tokens, or ``None``. Each bit-width gets a separate grid, and blocks are not reconstructed.
        task: meaning of the model's outputs.
    """

    def __init__(
        self,
        simulator: Simulator,
        images: Tensor,
        recipe: Recipe,
        checkpoints: Path | None = None,
        patches: PatchMap | None = None,
        task: Task = CLASSIFICATION,
    ) -> None:
        self.task = task
        self.recipe, self.checkpoints = recipe, Checkpoints(checkpoints)
        self.simulator, self.images = simulator, images
        self.calibration = simulator.calibration
        self.weights: dict[str, QuantizedWeight] = {}
        self.quantizers: dict[str, Quantizer] = {}
        self._taps, self._learns = TokenTaps(simulator, patches), recipe.reconstruct > 0 and patches is None
        self.by_bits: dict[str, dict[int, Quantizer]] = {}
        self._inputs, self._inputs_of = Spill(), ""  # what reaches the layer whose input was fitted last

    @torch.no_grad()
    def quantize(self, assignment: Mapping[str, Choice]) -> None:
        """Quantize the model with ``assignment``.

        The results are in ``weights`` and ``quantizers``, and in ``by_bits`` for activations with bits of single tokens.
        """
        simulator = self.simulator
        simulator.apply({})
        exact_stream, rounded_stream = Stream(simulator, self.images), Stream(simulator, self.images, self._taps.ranker)
        with exact_stream as exact, rounded_stream as rounded, Spill() as before, self._inputs:
            for stage in track(range(simulator.n_stages), "quantizing stages"):
                learns = self._learns and bool(simulator.block_parameters(stage))
                if learns:
                    before.take(exact.spill)
                components = [c for name in self.calibration.order if (c := simulator.inventory[name]).stage == stage]
                means = self._exact_means(stage, components, exact)
                for group in _independent(components):
                    choices = {c.name: assignment.get(c.name, FLOAT) for c in group}
                    if group[0].role == "activation":
                        self._activations(group, choices, stage, rounded)
                    elif not choices[group[0].name].is_fp32:
                        self._weight(group[0], choices[group[0].name], stage, rounded, means[group[0].module])
                if learns:
                    self._learn(stage, components, assignment, Streams(before, rounded.spill, exact.spill))
                rounded.advance(stage)
            self._scale_logits(torch.cat(list(exact.spill)), torch.cat(list(rounded.spill)))

    def _learn(self, stage: int, components: list[Component], assignment: Mapping[str, Choice], streams: Streams) -> None:
        """Reconstruct a block and store its learned weights and quantizers."""
        weights = {c.name: self.weights[c.name] for c in components if _learnable(c.name, assignment, self.weights)}
        quantizers = {c.name: self.quantizers[c.name] for c in components if _learnable(c.name, assignment, self.quantizers)}
        # The output of a block's last layer is added to the block's output, so both have the same gradient.
        last = next((c.module for c in reversed(components) if c.role == "weight"), None)
        squares = None if last is None else self.calibration.row_weights[last]
        rows = row_weights(squares, [x.shape for x in streams.references], EVEN)
        steps = self.recipe.reconstruct
        learned = learn_block(self.simulator, stage, weights, quantizers, assignment, streams, rows, steps, self.checkpoints)
        self.weights |= learned.weights
        self.quantizers |= learned.quantizers

    def _scale_logits(self, reference: Tensor, logits: Tensor) -> None:
        """Restore the FP32 model's confidence by scaling the last layer, if that layer computes the logits."""
        name = next(n for n in reversed(self.calibration.order) if self.simulator.inventory[n].role == "weight")
        layer = self.simulator.layer(name)
        custom = self.task.loss is not None or not self.task.once
        if custom or self.simulator.inventory[name].kind != "head" or layer.weight.shape[0] != logits.shape[-1]:
            return
        factor = logit_scale(to_logits(reference, self.task), to_logits(logits, self.task))
        if name in self.weights:
            self.weights[name] = self.weights[name].scaled(factor)
            self.simulator.set_weight(name, self.weights[name].dequantize())
        else:
            layer.weight.data.mul_(factor)
        if layer.bias is not None:
            layer.bias.data.mul_(factor)

    def _exact_means(self, stage: int, components: list[Component], exact: Stream) -> dict[str, Tensor]:
        """Return the mean FP32 output of each layer by module, and advance the FP32 stream by one stage."""
        modules = [c.module for c in components if c.slot == "weight"]
        means = {module: RowMean() for module in modules}

        def hook(module: str) -> Any:
            def add(layer: Any, args: tuple[Tensor], output: Tensor) -> None:
                means[module].update(output_rows(layer, output), self._row_weights(module, exact.batch, output))

            return add

        handles = [self.simulator.layer(f"{m}.weight").register_forward_hook(hook(m)) for m in modules]

        try:
            exact.advance(stage)
        finally:
            for handle in handles:
                handle.remove()
        return {module: mean.compute() for module, mean in means.items()}

    def _activations(self, group: Sequence[Component], choices: Mapping[str, Choice], stage: int, stream: Stream) -> None:
        """Refit the quantizers of activations that do not depend on one another to the quantized stream, and apply them."""
        simulator, taps = self.simulator, self._taps
        pending: dict[str, Samples] = {}
        for component in group:
            name, choice = component.name, choices[component.name]
            if choice.is_fp32:
                if component.slot == "softmax" and taps.ranker is not None:
                    taps.set(component, None)
            elif name in taps.tokens:
                self._tokens(component, choice, stage, stream)
                taps.set(component, taps.quantizer(component, self.by_bits[name]))
            else:
                pending[name] = self.calibration.samples[name].again()
        if not pending:
            return
        last = next(reversed(pending))
        for component in group:
            if (name := component.name) in pending:
                simulator.set_activation(name, self._recorder(component, choices[name], pending[name], name == last))
        stream.listen(stage)
        for component in group:
            name = component.name
            if name in pending:
                if not pending[name].finite():
                    raise PmqError(
                        f"{name!r} is not finite once all before it is quantized, as where the variance of a norm "
                        "rounds to zero; give it more bits, or choose another target"
                    )
                self.quantizers[name] = pending[name].fit(choices[name])
                taps.set(component, simulator.spread(name, self.quantizers[name]))

    def _recorder(self, component: Component, choice: Choice, samples: Samples, last: bool) -> TapFunction:
        """Return a tap that samples an activation, and keeps it for the layer that reads it; the ``last`` one ends the pass."""
        generator = torch.Generator()  # not used: the sampled positions are already drawn
        keep, relative = component.slot == "input", choice.quantizer == "relative"
        if keep:
            self._inputs.clear()
            self._inputs_of = component.module

        def record(x: Tensor) -> Tensor:
            by_head, name = self.simulator.by_head, component.name
            samples.add(by_head(name, x), 1.0, generator, by_head(name, largest_in_token(x)) if relative else None)
            if keep:
                self._inputs.append(x)
            if last:
                raise Heard
            return x

        return record

    def _tokens(self, component: Component, choice: Choice, stage: int, stream: Stream) -> None:
        """Fit a grid to the tokens of each bit-width, and to all tokens if none has the bit-width of the activation."""
        simulator, name = self.simulator, component.name
        choices = {choice.bits: choice} | {bits: other.choice for bits, other in self._taps.tokens[name].others.items()}
        bits_of, by_head = self._taps.quantizer(component, {}).bits_of, simulator.by_head
        samples = TokenSamples(self.calibration.samples[name])

        def record(x: Tensor) -> Tensor:
            samples.add(by_head(name, x), by_head(name, bits_of(x).float()), by_head(name, largest_in_token(x)))
            return x

        simulator.set_activation(name, record)
        stream.listen(stage)
        self.by_bits[name] = grids = samples.fit(choices)
        self.quantizers[name] = grids[choice.bits] if choice.bits in grids else samples.fit_all(choice)

    def _weight(self, component: Component, choice: Choice, stage: int, stream: Stream, target_mean: Tensor) -> None:
        """Round a weight with compensation on its quantized inputs, and set the bias so that the output keeps its mean."""
        layer = self.simulator.layer(component.name)
        if not has_rows(layer):
            self._rowless_weight(component, choice, stage, stream, target_mean)
            return
        moment, mean = SecondMoment(), RowMean()

        def add(x: Tensor) -> None:
            rows = rows_of(layer, layer.tapped("input", x))
            weights = self._row_weights(component.module, stream.batch, rows)
            mean.update(rows, weights)
            if self.recipe.ridge:  # the correction needs the joint moment of quantized and unquantized inputs
                rows = torch.cat([rows, rows_of(layer, x)], 1)
            moment.update(rows, weights)

        if self._inputs_of == component.module:
            for stream.batch, x in enumerate(self._inputs):
                add(x.to(layer.weight.device))
        else:
            stream.listen_before(layer, add, stage)
        original, second = self.simulator.original_weight(component.name), moment.compute()
        if self.recipe.ridge:
            inputs = len(second) // 2
            original, second = ridge_corrected(original, second, self.recipe.ridge), second[:inputs, :inputs]
        self.weights[component.name] = quantized = Compensator(second).quantize(original, choice)
        weight = quantized.dequantize()
        self.simulator.set_weight(component.name, weight)
        if layer.bias is not None:
            layer.bias.data.copy_(target_mean - weight.flatten(1) @ mean.compute())

    def _rowless_weight(self, component: Component, choice: Choice, stage: int, stream: Stream, target_mean: Tensor) -> None:
        """Round a weight that does not multiply rows to nearest, and correct the bias so that the output keeps its mean."""
        layer, mean = self.simulator.layer(component.name), RowMean()
        original = self.simulator.original_weight(component.name)
        self.weights[component.name] = quantized = quantize_weight(original, choice)
        self.simulator.set_weight(component.name, quantized.dequantize())
        if layer.bias is None:
            return

        def add(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            mean.update(output_rows(layer, output), self._row_weights(component.module, stream.batch, output))
            raise Heard

        with layer.register_forward_hook(add):
            stream.listen(stage)
        layer.bias.data.add_(target_mean - mean.compute())

    def _row_weights(self, module: str, batch: int, like: Tensor) -> Tensor:
        """Return the weights of a batch's output rows ``(T,)`` on the device of ``like``."""
        weights = self.calibration.row_weights[module][batch * BATCH : (batch + 1) * BATCH]
        return weights.reshape(-1).to(like.device)


def _independent(components: Sequence[Component]) -> list[list[Component]]:
    """Group consecutive components whose values do not depend on one another: the operands of one product or attention."""
    groups: list[list[Component]] = []
    for component in components:
        operand = component.role == "activation" and component.slot != "softmax"
        if operand and groups and groups[-1][0].role == "activation" and groups[-1][0].module == component.module:
            groups[-1].append(component)
        else:
            groups.append([component])
    return groups


def _learnable(name: str, assignment: Mapping[str, Choice], grids: Mapping[str, object]) -> bool:
    """Return whether a component has a grid, or codes on a grid, that reconstruction can learn."""
    return name in grids and assignment[name].quantizer not in FLOATS
