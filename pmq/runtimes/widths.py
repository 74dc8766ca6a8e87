"""How much faster a model gets where less is kept of its blocks, measured inside the whole model."""

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

#: models of random widths and choices that correct what single widths save
MIXTURES = 16
#: relative standard deviations: of what a kind of unit saves at a choice, and of a measurement from what any sum can say
EACH, NOISE = 0.3, 0.02

Saved = dict[str, dict[str, dict[str, float]]]  # unit -> what is kept -> what its layers do -> ms less


@dataclass(frozen=True)
class Narrower:
    """A model of which ``widths`` are what is kept of units; of those it does not name that is all."""

    model: nn.Module
    inventory: Inventory
    widths: Mapping[str, PrunedUnit]


class WidthBench:
    """Compares narrower models with the whole one, in turns.

    Args:
        target: the runtime.
        whole: the model before anything is removed.
        choices: layer -> what it may do.
        image_size: ``(C, H, W)``.
        threads: of the runtime.
        rounds: of each comparison.
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
        """What layers do, FP32 where they have no such choice."""
        return {n: key if key in map(mode_key, self._choices[n]) else PLAIN for n, key in keys.items()}

    def _open(self, shape: Narrower) -> Callable[[Mapping[str, str]], Session]:
        skeleton = self._target.skeleton(shape.model, list(self._choices), self._image)
        maker = Maker(shape.model, shape.inventory, self._choices)
        return Bench(self._target, skeleton, maker, self._image.numpy(), self._threads, self._rounds).session

    def _times(self, sessions: Mapping[str, Session]) -> dict[str, Any]:
        array = self._image.numpy()
        return interleaved({name: (lambda s=s: s(array)) for name, s in sessions.items()}, self._rounds)  # type: ignore[misc]

    def saved(self, shapes: Iterable[Narrower]) -> Saved:
        """What each unit's width saves, of shapes whose units are all equally narrow: they are taken to save equally much.

        All layers are at the same choice, for every choice.
        """
        found: Saved = {}
        for shape in track(list(shapes), "timing widths"):
            opened = self._open(shape)
            after = {f"after {key}": opened(self.known(dict.fromkeys(self._choices, key))) for key in self.keys}
            times = self._times({f"before {key}": s for key, s in self._whole.items()} | after)
            units = len(shape.widths)
            less = {key: float(np.median(times[f"before {key}"] - times[f"after {key}"])) / units for key in self.keys}
            for name, unit in shape.widths.items():
                found.setdefault(name, {})[WidthChoice(unit=unit).label] = less
        return found

    def corrected(self, table: LatencyTable, shapes: Iterable[Narrower], seed: int = 0) -> LatencyTable:
        """Scale what widths save, by kind of unit and choice, to what random mixtures of widths and choices do save.

        Half of a mixture's layers are at the choice that is fastest throughout. A small layer is dominated by what every
        layer takes, so narrow units save less together than one kind of them does alone. The margin is that of the choices
        and twice the error at which each mixture's savings are predicted from the others, as share of all it takes.
        """
        rng, table = np.random.default_rng(seed), self._possible(table)
        fastest = min(self.keys, key=lambda key: self._whole_ms(table, key))
        columns = sorted({(_kind(unit), key) for unit in table.units for key in self.keys})
        rows, saved, taken = [], [], []
        for shape in track(list(shapes), "timing mixtures"):
            drawn = {
                n: fastest if rng.random() < 0.5 else mode_key(m[int(rng.integers(len(m)))]) for n, m in self._choices.items()
            }
            keys = self.known(drawn)
            times = self._times({"mixture": self._open(shape)(keys), "whole": self._open_whole(keys)})
            saved.append(float(np.median(times["whole"] - times["mixture"])))
            taken.append(float(np.median(times["mixture"])))
            rows.append([_savings(table, shape, keys, column) for column in columns])
        x, y, whole = np.array(rows), np.array(saved), np.array(taken)
        scale = _fitted(x, y, NOISE * whole)
        others = [_fitted(np.delete(x, i, 0), np.delete(y, i), NOISE * np.delete(whole, i)) for i in range(len(y))]
        off = [(x[i] @ f - y[i]) / whole[i] for i, f in enumerate(others)]
        margin = float(np.hypot(table.margin, 2 * np.sqrt(np.mean(np.square(off)))))
        factors = dict(zip(columns, scale, strict=True))
        units = {
            name: {label: {k: ms * factors[_kind(name), k] for k, ms in row.items()} for label, row in by_label.items()}
            for name, by_label in table.units.items()
        }
        return table.model_copy(update={"units": units, "margin": margin})

    def _possible(self, table: LatencyTable) -> LatencyTable:
        """The table without savings of layers that are more than what is removed of them.

        In a model of one slow choice throughout, smaller layers save more than one such layer does among others: caches.
        What a unit saves outside of its layers, at softmax and GELU, does not depend on what its layers do.
        """
        floats = [PLAIN, min(self.keys, key=lambda k: self._whole_ms(table, k))]
        units: Saved = {}
        for name, by_label in table.units.items():
            layers = table.layers_of(name).values()
            taken = {key: sum(row.get(key, row[PLAIN]) for row in layers) for key in self.keys}
            units[name] = {}
            for label, row in by_label.items():
                kept, _, size = label.partition(":")[0].partition("/")
                removed = {key: (1 - int(kept) / int(size)) * taken[key] for key in self.keys}
                outside = float(np.mean([max(0.0, row[key] - removed[key]) for key in floats]))
                units[name][label] = {key: min(ms, removed[key] + outside) for key, ms in row.items()}
        return table.model_copy(update={"units": units})

    def _whole_ms(self, table: LatencyTable, key: str) -> float:
        return table.whole_ms(self.known(dict.fromkeys(self._choices, key)))


def _kind(unit: str) -> str:
    """Units whose names differ in numbers alone do the same."""
    return re.sub(r"\d+", "#", unit)


def _savings(table: LatencyTable, shape: Narrower, keys: Mapping[str, str], column: tuple[str, str]) -> float:
    """Milliseconds that units of a kind save in layers at a choice, by the table."""
    kind, key = column
    total = 0.0
    for name, unit in shape.widths.items():
        if _kind(name) == kind and unit.share < 1:
            layers = unit.layers_at(name)
            label = WidthChoice(unit=unit).label
            total += sum(table.layer_saved_ms(name, label, layer, key) for layer in layers if keys[layer] == key)
    return total


def _fitted(x: NDArray[np.float64], y: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Most probable factors, each believed to be one but for ``EACH``, of sums ``x`` that are to be ``y``."""
    weighed = x / noise[:, None] ** 2
    precision = weighed.T @ x + np.eye(x.shape[1]) / EACH**2
    return np.asarray(1 + np.linalg.solve(precision, weighed.T @ (y - x.sum(1))))
