"""Calibration: statistics of activations on a few images, and the quantizers that are fitted to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.allocation import CalibrationInfo
from pmq.core.choice import Choice
from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.memory import freed_at_once
from pmq.core.progress import track
from pmq.core.shelf import Shelf
from pmq.core.task import CLASSIFICATION, Task
from pmq.graph import CapturedModel, TapFunction
from pmq.quant.compensation import SecondMoment, has_rows, output_rows, rows_of
from pmq.quant.gradients import Losses, gradients_by_stage, log_likelihoods, mean_squares
from pmq.quant.instrument import Instrument
from pmq.quant.quantizers import QUANTIZERS, Quantizer
from pmq.quant.samples import Samples, largest_in_token

#: number of images in a forward pass
BATCH = 8
#: number of labels drawn for each image; higher than elsewhere, as these gradients weight all later errors of the model
DRAWS = 4


class Calibration:
    """Quantizers of activations, either fitted at their first use or known in advance, and statistics of layers.

    Attributes:
        samples: values of each activation.
        known: parameters of activations that need no samples, by component.
        info: description of the images from which the samples are.
        moments: second moment of the input rows of each layer that has rows, by module; only with gradients. On disk where
            memory is limited.
        order: components in the order in which a forward pass reaches them.
        row_weights: squared gradient at each row of each layer's output ``(N, T)``, by module; only with gradients.
    """

    def __init__(
        self,
        samples: dict[str, Samples] | None = None,
        known: Mapping[str, Mapping[str, list[float]]] | None = None,
        info: CalibrationInfo | None = None,
    ) -> None:
        self.samples, self.known, self.info = samples or {}, known or {}, info
        self.moments: Shelf[str, SecondMoment] = Shelf()
        self.row_weights: dict[str, Tensor] = {}
        self.order: list[str] = []
        self._cache: dict[tuple[str, str], Quantizer] = {}

    def quantizer(self, name: str, choice: Choice) -> Quantizer:
        """Return the quantizer of activation ``name`` for ``choice``, with parameters ``(R, 1)``, a row for each scale.

        Raises:
            PmqError: the activation was not sampled, and its parameters are not known.
        """
        if name in self.known:
            return _known(self.known[name], choice)
        key = (name, choice.key())
        if key not in self._cache:
            if name not in self.samples:
                raise PmqError(f"activation {name!r} was not calibrated; pass images, or an allocation that contains its range")
            self._cache[key] = self.samples[name].fit(choice)
        return self._cache[key]

    def use(self, name: str, choice: Choice, quantizer: Quantizer) -> None:
        """Use a quantizer that was fitted to the same samples elsewhere."""
        self._cache[name, choice.key()] = quantizer


def _known(parameters: Mapping[str, list[float]], choice: Choice) -> Quantizer:
    """Build a quantizer from parameters that are known in advance."""
    cls = QUANTIZERS[choice.quantizer]
    tensors = {k: torch.tensor(v) for k, v in parameters.items()}
    rows = {k: t if k in cls.shared else t.reshape(-1, 1) for k, t in tensors.items()}
    return cls(rows, choice.bits, choice.symmetric)


def calibrate(
    model: CapturedModel,
    inventory: Inventory,
    images: Tensor,
    seed: int = 0,
    n_held_out: int = 0,
    gradients: bool = False,
    task: Task = CLASSIFICATION,
) -> Calibration:
    """Run ``images`` ``(N, C, H, W)`` through the FP32 model and store a sample of every activation.

    With ``gradients``, backward passes measure how much an error of each value affects the output, and the second moments of
    every layer's input are accumulated. Memory grows with ``N`` by only a few bytes per token. ``n_held_out`` is recorded in
    the calibration's ``info``: the number of further images, drawn with the same seed, on which a search evaluates.

    Raises:
        PmqError: an activation is not finite.
    """
    info = CalibrationInfo(sha256=images_sha256(images), n_images=len(images), n_held_out=n_held_out, seed=seed)
    calibration = Calibration({c.name: Samples() for c in inventory if c.role == "activation"}, info=info)
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    row_weights: dict[str, list[Tensor]] = {}
    with freed_at_once(), Instrument(model, inventory) as instrument, torch.set_grad_enabled(gradients):
        for batch in track(images.split(BATCH), "calibrating"):
            share, x, weights = len(batch) / len(images), batch.to(device), {}
            with _PassRecorder(instrument, calibration.samples, share, generator) as recorder:
                if gradients:
                    losses = partial(log_likelihoods, task=task, generator=generator, draws=DRAWS)
                    weights = recorder.weigh(model, x, losses, calibration.moments)
                else:
                    model(x)
            calibration.order = calibration.order or recorder.order
            for module, of_rows in weights.items():
                row_weights.setdefault(module, []).append(of_rows)
    calibration.row_weights = {module: torch.cat(parts) for module, parts in row_weights.items()}
    return calibration


class _PassRecorder:
    """Recorder of one forward pass: the activations, and the inputs and outputs of layers."""

    def __init__(self, instrument: Instrument, samples: dict[str, Samples], share: float, generator: torch.Generator) -> None:
        self.instrument, self.samples, self.share, self.generator = instrument, samples, share, generator
        self.activations: dict[str, Tensor] = {}
        self.layers: dict[str, tuple[Tensor, Tensor]] = {}
        self.order: list[str] = []

    def _recorder(self, name: str) -> TapFunction:
        weight = name.removesuffix(".input") + ".weight"

        def record(x: Tensor) -> Tensor:
            self.order += [name, weight] if weight in self.instrument.weights else [name]
            by_head, seen = self.instrument.by_head, x.detach()
            largest = by_head(name, largest_in_token(seen))
            self.samples[name].add(by_head(name, seen), self.share, self.generator, largest)
            if not self.samples[name].finite():
                raise PmqError(f"activation {name!r} is not finite on the calibration images; check the checkpoint and the data")
            if torch.is_grad_enabled() and not self.instrument.inventory[name].fixed:
                # A view, as gradients shall be those of this reader of the tensor, not of its other readers.
                self.activations[name] = x = x.view_as(x)
            return x

        return record

    def _layer_hook(self, module: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            self.layers[module] = (args[0].detach(), output)
            if self.instrument.inventory.whole:  # no tap at its input precedes it
                self.order.append(f"{module}.weight")

        return hook

    def __enter__(self) -> _PassRecorder:
        for name in self.samples:
            self.instrument.set_activation(name, self._recorder(name))
        self._handles = [
            self.instrument.layer(name).register_forward_hook(self._layer_hook(self.instrument.inventory[name].module))
            for name in self.instrument.weights
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.samples:
            self.instrument.set_activation(name, None)
        for handle in self._handles:
            handle.remove()

    def weigh(self, model: CapturedModel, images: Tensor, losses: Losses, moments: Shelf[str, SecondMoment]) -> dict[str, Tensor]:
        """Run images ``(B, ...)``, weigh samples and moments, and return the weight of each output row ``(B, T)`` by module."""
        weights = {}
        for stage, gradients in gradients_by_stage(model, images, losses, self._observed):
            squares = mean_squares(gradients)
            with torch.no_grad():
                names, modules = self._recorded(stage)
                for name, square in zip(names, squares, strict=False):
                    self.samples[name].weigh(self.instrument.by_head(name, square))
                    del self.activations[name]
                for module, square in zip(modules, squares[len(names) :], strict=True):
                    layer = self.instrument.layer(f"{module}.weight")
                    rows = output_rows(layer, square).mean(1)
                    if has_rows(layer):
                        moment = moments[module] if module in moments else SecondMoment()
                        moment.update(rows_of(layer, self.layers[module][0]), rows)
                        moments[module] = moment
                    weights[module] = rows.reshape(len(images), -1).cpu()
                    del self.layers[module]
        return weights

    def _recorded(self, stage: int) -> tuple[list[str], list[str]]:
        """Return the names of a stage's recorded activations, and those of its layers."""
        inventory = self.instrument.inventory
        layers = [module for module in self.layers if inventory[f"{module}.weight"].stage == stage]
        return [name for name in self.activations if inventory[name].stage == stage], layers

    def _observed(self, stage: int) -> list[Tensor]:
        names, modules = self._recorded(stage)
        return [self.activations[name] for name in names] + [self.layers[module][1] for module in modules]


def images_sha256(images: Tensor) -> str:
    """Return the SHA-256 hash of preprocessed images, which depends on their order."""
    return hashlib.sha256(images.detach().cpu().contiguous().numpy().data).hexdigest()
