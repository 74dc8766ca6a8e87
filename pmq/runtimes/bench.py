"""Interleaved timing of whole models whose layers have any combination of choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from pmq.core.choice import FLOAT, Assignment, Choice
from pmq.core.component import Inventory
from pmq.core.recipe import find_recipe
from pmq.core.tensors import TensorFile
from pmq.cost.latency import PLAIN, kernel_key
from pmq.quant import Quantized, quantize_weight
from pmq.runtimes.base import Target
from pmq.runtimes.layer import DeployLayer, deploy_layers
from pmq.runtimes.session import Session
from pmq.runtimes.timing import interleaved, median_spread

#: placeholder grid of inputs: speed does not depend on its values
GRID = {"scale": [0.05], "zero_point": [128.0]}
#: number of measured rounds per comparison
ROUNDS = 15

Mode = tuple[Choice, Choice]  # choices of a layer's weight and input


def mode_key(mode: Mode) -> str:
    """Return the name of the kernel of a mode, which modes with fewer bits may share."""
    return kernel_key(*mode)


class Maker:
    """Builder of layers at any choice, with weights rounded to nearest and inputs on a placeholder grid."""

    def __init__(self, model: nn.Module, inventory: Inventory, choices: Mapping[str, Sequence[Mode]]) -> None:
        self._model, self._inventory, self.choices = model, inventory, choices
        self._layers: dict[tuple[str, str], DeployLayer] = {}

    def layer(self, name: str, key: str) -> DeployLayer:
        """Return layer ``name`` in the mode ``key``; in FP32 if it has no such mode."""
        if (name, key) not in self._layers:
            mode = next((m for m in self.choices[name] if mode_key(m) == key), (FLOAT, FLOAT))
            self._layers[name, key] = self._make(name, mode)
        return self._layers[name, key]

    def input_shape(self, name: str, batch_size: int) -> tuple[int, ...]:
        """Return the input shape of layer ``name``; windows count as batch rows of the shape that the inventory contains."""
        weight, source = self._inventory[f"{name}.weight"], self._inventory[f"{name}.input"]
        macs = next(op.macs for op in self._inventory.operators if op.name == name)
        rows = macs * source.shape[-1] // weight.numel
        windows = 1 if len(weight.shape) > 2 else max(1, rows // source.numel)
        return (batch_size * windows, *source.shape)

    def _make(self, name: str, mode: Mode) -> DeployLayer:
        components = [c for c in self._inventory if c.module == name and c.slot in ("weight", "input")]
        assignment: Assignment = {f"{name}.weight": mode[0], f"{name}.input": mode[1]}
        parameters = {} if mode[1].is_fp32 else {f"{name}.input": GRID}
        module: Any = self._model.get_submodule(name)
        weights = {} if mode[0].is_fp32 else {f"{name}.weight": quantize_weight(module.weight.detach(), mode[0])}
        quantized = Quantized(assignment, find_recipe("minmax"), parameters, TensorFile.of({}))
        (layer,) = deploy_layers(self._model, Inventory(tuple(components), (), 0), quantized, weights)
        return layer


class Bench:
    """Interleaved latency comparison of whole models."""

    def __init__(
        self, target: Target, skeleton: Any, maker: Maker, image: Any = None, threads: int = 1, rounds: int = ROUNDS
    ) -> None:
        self._target, self._skeleton, self._maker = target, skeleton, maker
        self._image, self._threads, self._rounds = image, threads, rounds
        self._fp32_times: list[Any] = []

    @property
    def whole(self) -> tuple[float, float]:
        """Median latency of the FP32 model in milliseconds over all comparisons, and its relative spread."""
        return median_spread(np.concatenate(self._fp32_times))

    def fastest_of(self, models: Mapping[str, Mapping[str, str]]) -> str:
        """Return the name of the fastest model."""
        times = self.times(models)
        return min(times, key=lambda name: float(np.median(times[name])))

    def compare(self, members: list[str], fastest: str) -> dict[str, float]:
        """Return the milliseconds of one of the identical layers ``members`` in each of its modes and in FP32."""
        keys = list(dict.fromkeys([*map(mode_key, self._maker.choices[members[0]]), PLAIN]))
        models: dict[str, dict[str, str]] = {}
        for around in (PLAIN, fastest):
            for key in keys:
                models[f"{around}|{key}"] = {n: key if n in members else around for n in self._maker.choices}
        alone = self.alone(members[0], PLAIN)
        times = self.times(models)
        self._fp32_times.append(times[f"{PLAIN}|{PLAIN}"])
        row = {}
        for key in keys:
            changes = [np.median(times[f"{around}|{key}"] - times[f"{around}|{PLAIN}"]) for around in (PLAIN, fastest)]
            row[key] = alone + float(np.mean(changes)) / len(members)
        return row

    def apart(self, name: str) -> dict[str, float]:
        """Return the milliseconds of a single layer, outside the model, in each of its modes and in FP32."""
        return {key: self.alone(name, key) for key in dict.fromkeys([*map(mode_key, self._maker.choices[name]), PLAIN])}

    def times(self, models: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """Time models, given as the mode of each layer, interleaved; return milliseconds ``(rounds,)`` by name."""
        sessions = {name: self.session(keys) for name, keys in models.items()}
        return interleaved({name: partial(session, self._image) for name, session in sessions.items()}, self._rounds)

    def session(self, keys: Mapping[str, str]) -> Session:
        """Build the model with the mode of each layer in ``keys`` and load it into the runtime."""
        layers = [self._maker.layer(layer, key) for layer, key in keys.items()]
        return self._target.session(self._target.build(self._skeleton, layers), self._threads)

    def alone(self, name: str, key: str) -> float:
        """Return the milliseconds of a single layer; its FP32 time serves as its share of the FP32 model's latency."""
        layer, shape = self._maker.layer(name, key), self._maker.input_shape(name, len(self._image))
        session = self._target.session(self._target.build(self._target.single(layer, shape), [layer]), self._threads)
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        return median_spread(interleaved({"alone": lambda: session(x)}, self._rounds)["alone"])[0]
