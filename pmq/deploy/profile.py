"""How long each layer takes at each choice, measured inside the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pmq.core.choice import FLOAT, Assignment, Choice
from pmq.core.component import Inventory
from pmq.core.progress import track
from pmq.core.recipe import find_recipe
from pmq.core.tensors import TensorFile
from pmq.cost.latency import LatencyTable, layer_key
from pmq.deploy.base import Target
from pmq.deploy.layer import DeployLayer, deploy_layers
from pmq.deploy.timing import interleaved, machine, median_spread
from pmq.quant import Quantized, quantize_weight

#: a grid for inputs: speed does not depend on what is in it
GRID = {"scale": [0.05], "zero_point": [128.0]}
#: measured rounds of each comparison
ROUNDS = 15

Mode = tuple[Choice, Choice]  # of a layer's weight and input
PLAIN = layer_key(FLOAT, FLOAT)


def profile_layers(
    target: Target,
    model: nn.Module,
    inventory: Inventory,
    choices: Mapping[str, Sequence[Mode]],
    name: str,
    batch_size: int = 1,
    threads: int = 1,
    rounds: int = ROUNDS,
) -> LatencyTable:
    """Fill a latency table.

    Layers of the same kind and shape are changed together, which is seen better than one alone. What a change takes depends
    on its surroundings: where all else is FP32, caches hold less. So each is measured in two models, one FP32 but for it
    and one at its fastest but for it, against these in turns, and counts with the mean of both. Where changes interact in
    pairs, the sums are then right at both ends.

    Args:
        target: the runtime.
        model: in evaluation mode, on the CPU.
        inventory: its components.
        choices: layer -> what it may do.
        name: of the model, for the record.
        batch_size: images at once.
        threads: of the runtime.
        rounds: of each comparison.
    """
    image = torch.randn(batch_size, *inventory.components[1].shape)
    skeleton = target.skeleton(model, list(choices), image)
    bench = _Bench(target, skeleton, _Maker(model, inventory, choices), image.numpy(), threads, rounds)
    groups: dict[tuple[object, ...], list[str]] = {}
    for layer in choices:
        weight, source = inventory[f"{layer}.weight"], inventory[f"{layer}.input"]
        groups.setdefault((weight.kind, weight.shape, source.shape, tuple(map(_key, choices[layer]))), []).append(layer)
    fastest = bench.fastest_of({key for modes in choices.values() for key in map(_key, modes)})
    layers: dict[str, dict[str, float]] = {}
    for members in track(list(groups.values()), "timing layers"):
        layers |= dict.fromkeys(members, bench.compare(members, fastest))
    whole, spread = bench.whole
    rest = whole - sum(row[PLAIN] for row in layers.values())
    return LatencyTable(
        target=target.name,
        model=name,
        batch_size=batch_size,
        threads=threads,
        fingerprint=fingerprint(target),
        layers=layers,
        rest_ms=rest,
        spread=spread,
    )


def fingerprint(target: Target) -> dict[str, str]:
    """What a latency measured here depends on: the machine and the runtime."""
    return machine() | {name: text for name, text in target.versions().items() if name == target.runtime}


def _key(mode: Mode) -> str:
    return layer_key(*mode)


class _Maker:
    """Makes a layer of every choice: weights rounded to the nearest, inputs on any grid."""

    def __init__(self, model: nn.Module, inventory: Inventory, choices: Mapping[str, Sequence[Mode]]) -> None:
        self._model, self._inventory, self.choices = model, inventory, choices
        self._made: dict[tuple[str, str], DeployLayer] = {}

    def layer(self, name: str, key: str) -> DeployLayer:
        """What ``key`` makes of layer ``name``; FP32 where it has no such choice."""
        if (name, key) not in self._made:
            mode = next((m for m in self.choices[name] if _key(m) == key), (FLOAT, FLOAT))
            self._made[name, key] = self._make(name, mode)
        return self._made[name, key]

    def input_shape(self, name: str, batch_size: int) -> tuple[int, ...]:
        """Of layer ``name``."""
        return (batch_size, *self._inventory[f"{name}.input"].shape)

    def _make(self, name: str, mode: Mode) -> DeployLayer:
        own = [c for c in self._inventory if c.module == name and c.slot in ("weight", "input")]
        assignment: Assignment = {f"{name}.weight": mode[0], f"{name}.input": mode[1]}
        parameters = {} if mode[1].is_float else {f"{name}.input": GRID}
        module: Any = self._model.get_submodule(name)
        weights = {} if mode[0].is_float else {f"{name}.weight": quantize_weight(module.weight.detach(), mode[0])}
        quantized = Quantized(assignment, find_recipe("minmax"), parameters, TensorFile.of({}))
        (layer,) = deploy_layers(self._model, Inventory(tuple(own), (), 0), quantized, weights)
        return layer


class _Bench:
    """Compares whole models with one another."""

    def __init__(self, target: Target, skeleton: Any, maker: _Maker, image: Any, threads: int, rounds: int) -> None:
        self._target, self._skeleton, self._maker = target, skeleton, maker
        self._image, self._threads, self._rounds = image, threads, rounds
        self._seen: list[Any] = []

    @property
    def whole(self) -> tuple[float, float]:
        """Milliseconds of the FP32 model, over all comparisons, and their spread."""
        return median_spread(np.concatenate(self._seen))

    def fastest_of(self, keys: set[str]) -> str:
        """The choice at which the whole model is fastest."""
        times = self._times({key: {name: key for name in self._maker.choices} for key in sorted(keys)})
        return min(times, key=lambda key: float(np.median(times[key])))

    def compare(self, members: list[str], fastest: str) -> dict[str, float]:
        """Milliseconds of one of ``members``, which are alike, at each of its choices."""
        keys = [_key(mode) for mode in self._maker.choices[members[0]]]
        models: dict[str, dict[str, str]] = {}
        for around in (PLAIN, fastest):
            for key in (PLAIN, *keys):
                models[f"{around}|{key}"] = {n: key if n in members else around for n in self._maker.choices}
        alone = self._alone(members[0])
        times = self._times(models)
        self._seen.append(times[f"{PLAIN}|{PLAIN}"])
        row = {}
        for key in keys:
            changes = [np.median(times[f"{around}|{key}"] - times[f"{around}|{PLAIN}"]) for around in (PLAIN, fastest)]
            row[key] = alone + float(np.mean(changes)) / len(members)
        return row

    def _times(self, models: dict[str, dict[str, str]]) -> Any:
        calls = {}
        for name, keys in models.items():
            layers = [self._maker.layer(layer, key) for layer, key in keys.items()]
            session = self._target.session(self._target.build(self._skeleton, layers), self._threads)
            calls[name] = lambda session=session: session(self._image)
        return interleaved(calls, self._rounds)

    def _alone(self, name: str) -> float:
        """Milliseconds of an FP32 layer by itself: the share of the model that it is said to take."""
        layer, shape = self._maker.layer(name, PLAIN), self._maker.input_shape(name, len(self._image))
        session = self._target.session(self._target.build(self._target.single(layer, shape), [layer]), self._threads)
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        return median_spread(interleaved({"alone": lambda: session(x)}, self._rounds)["alone"])[0]
