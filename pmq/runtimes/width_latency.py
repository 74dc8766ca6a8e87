"""Measurement of the milliseconds that width choices save, inside the whole model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pmq.core.choice import WidthChoice
from pmq.core.component import Inventory
from pmq.core.progress import track
from pmq.core.pruning import PrunedUnit
from pmq.cost.latency import PLAIN, LatencyTable
from pmq.runtimes.base import Target
from pmq.runtimes.bench import ROUNDS, Bench, Maker, Mode, mode_key
from pmq.runtimes.session import Session
from pmq.runtimes.timing import interleaved

#: number of models with random widths and choices whose latencies update the savings of single widths
MIXTURES = 16
#: relative standard deviations: of the savings of a kind of unit at a choice, and of a measurement relative to the best sum
EACH, NOISE = 0.3, 0.02

Saved = dict[str, dict[str, dict[str, float]]]  # unit -> width choice -> mode of its layers -> saved ms


@dataclass(frozen=True)
class Narrower:
    """Pruned model in which ``widths`` are the pruned units; units that are not named have their full width."""

    model: nn.Module
    inventory: Inventory
    widths: Mapping[str, PrunedUnit]


class WidthBench:
    """Interleaved latency comparison of narrower models with the unpruned one.

    Args:
        target: the runtime.
        whole: the unpruned model.
        choices: layer -> modes that it supports.
        image_size: ``(C, H, W)``.
        threads: number of threads of the runtime.
        rounds: number of rounds per comparison.
    """

    def __init__(
        self,
        target: Target,
        whole: Narrower,
        choices: Mapping[str, Sequence[Mode]],
        image_size: Sequence[int],
        threads: int = 1,
        rounds: int = ROUNDS,
    ) -> None:
        self._target, self._choices, self._threads, self._rounds = target, choices, threads, rounds
        self._image = torch.randn(1, *image_size)
        self.keys = list(dict.fromkeys([PLAIN, *(mode_key(mode) for modes in choices.values() for mode in modes)]))
        self._open_whole = self._open(whole)
        self._whole = {key: self._open_whole(self.known(dict.fromkeys(choices, key))) for key in self.keys}

    def known(self, keys: Mapping[str, str]) -> dict[str, str]:
        """Return ``keys`` with FP32 for layers that do not support their mode."""
        return {n: key if key in map(mode_key, self._choices[n]) else PLAIN for n, key in keys.items()}

    def _open(self, shape: Narrower) -> Callable[[Mapping[str, str]], Session]:
        skeleton = self._target.skeleton(shape.model, list(self._choices), self._image)
        maker = Maker(shape.model, shape.inventory, self._choices)
        return Bench(self._target, skeleton, maker, self._image.numpy(), self._threads, self._rounds).session

    def _times(self, sessions: Mapping[str, Session]) -> dict[str, Any]:
        array = self._image.numpy()
        return interleaved({name: (lambda s=s: s(array)) for name, s in sessions.items()}, self._rounds)  # type: ignore[misc]

    def saved(self, shapes: Iterable[Narrower]) -> Saved:
        """Measure the milliseconds that each unit's width saves, from shapes whose units are all equally narrow.

        The units of a shape are assumed to save equally much. All layers have the same choice, for every choice.
        """
        savings: Saved = {}
        for shape in track(list(shapes), "timing widths"):
            opened = self._open(shape)
            after = {f"after {key}": opened(self.known(dict.fromkeys(self._choices, key))) for key in self.keys}
            times = self._times({f"before {key}": s for key, s in self._whole.items()} | after)
            units = len(shape.widths)
            less = {key: float(np.median(times[f"before {key}"] - times[f"after {key}"])) / units for key in self.keys}
            for name, unit in shape.widths.items():
                savings.setdefault(name, {})[WidthChoice(unit=unit).label] = less
        return savings

    def updated(self, table: LatencyTable, shapes: Iterable[Narrower], seed: int = 0) -> LatencyTable:
        """Scale the savings of widths, by kind of unit and choice, to fit those of random mixtures of widths and choices.

        Half of a mixture's layers have the choice that is fastest throughout. The fixed cost of a layer dominates small layers,
        so narrow units save less together than one kind of them does alone. The margin combines that of the choices with
        twice the error of predicting each mixture's savings from the others, relative to the mixture's latency.
        """
        rng, table = np.random.default_rng(seed), self._possible(table)
        fastest = min(self.keys, key=lambda key: self._whole_ms(table, key))
        columns = sorted({(_kind(unit), key) for unit in table.units for key in self.keys})
        rows, saved, mixture_ms = [], [], []
        for shape in track(list(shapes), "timing mixtures"):
            drawn = {
                n: fastest if rng.random() < 0.5 else mode_key(m[int(rng.integers(len(m)))]) for n, m in self._choices.items()
            }
            keys = self.known(drawn)
            times = self._times({"mixture": self._open(shape)(keys), "whole": self._open_whole(keys)})
            saved.append(float(np.median(times["whole"] - times["mixture"])))
            mixture_ms.append(float(np.median(times["mixture"])))
            rows.append([_savings(table, shape, keys, column) for column in columns])
        x, y, latencies = np.array(rows), np.array(saved), np.array(mixture_ms)
        scale = _fitted(x, y, NOISE * latencies)
        factors_without = [_fitted(np.delete(x, i, 0), np.delete(y, i), NOISE * np.delete(latencies, i)) for i in range(len(y))]
        off = [(x[i] @ f - y[i]) / latencies[i] for i, f in enumerate(factors_without)]
        margin = float(np.hypot(table.margin, 2 * np.sqrt(np.mean(np.square(off)))))
        factors = dict(zip(columns, scale, strict=True))
        units = {
            name: {label: {k: ms * factors[_kind(name), k] for k, ms in row.items()} for label, row in by_label.items()}
            for name, by_label in table.units.items()
        }
        return table.model_copy(update={"units": units, "margin": margin})

    def _possible(self, table: LatencyTable) -> LatencyTable:
        """Limit the savings of each unit in ``table`` to the time of the parts that its width removes.

        In a model with one slow choice throughout, smaller layers save more than one such layer does among others, because of
        caches. The savings of a unit outside its layers, at softmax and GELU, do not depend on the choices of its layers.
        """
        floats = [PLAIN, min(self.keys, key=lambda k: self._whole_ms(table, k))]
        units: Saved = {}
        for name, by_label in table.units.items():
            layers = table.layers_of(name).values()
            layers_ms = {key: sum(row.get(key, row[PLAIN]) for row in layers) for key in self.keys}
            units[name] = {}
            for label, row in by_label.items():
                remaining, _, size = label.partition(":")[0].partition("/")
                removed = {key: (1 - int(remaining) / int(size)) * layers_ms[key] for key in self.keys}
                outside = float(np.mean([max(0.0, row[key] - removed[key]) for key in floats]))
                units[name][label] = {key: min(ms, removed[key] + outside) for key, ms in row.items()}
        return table.model_copy(update={"units": units})

    def _whole_ms(self, table: LatencyTable, key: str) -> float:
        return table.whole_ms(self.known(dict.fromkeys(self._choices, key)))


def _kind(unit: str) -> str:
    """Return the kind of a unit: its name without numbers, which units with the same role share."""
    return re.sub(r"\d+", "#", unit)


def _savings(table: LatencyTable, shape: Narrower, keys: Mapping[str, str], column: tuple[str, str]) -> float:
    """Return the milliseconds that units of a kind save in layers at a choice, according to the table."""
    kind, key = column
    total = 0.0
    for name, unit in shape.widths.items():
        if _kind(name) == kind and unit.share < 1:
            layers = unit.layers_at(name)
            label = WidthChoice(unit=unit).label
            total += sum(table.layer_saved_ms(name, label, layer, key) for layer in layers if keys[layer] == key)
    return total


def _fitted(x: NDArray[np.float64], y: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the most probable factors of the columns of ``x`` that predict ``y``, with prior mean 1 and deviation ``EACH``."""
    weighed = x / noise[:, None] ** 2
    precision = weighed.T @ x + np.eye(x.shape[1]) / EACH**2
    return np.asarray(1 + np.linalg.solve(precision, weighed.T @ (y - x.sum(1))))
