"""Variation operators for genomes of ordered choices: neighbouring choices are similar, so most steps are small."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.sampling import Sampling

from pmq.optimize.lagrangian import minimize_lagrangian, price_range
from pmq.optimize.tables import Genomes


class SeededSampling(Sampling):  # type: ignore[misc]
    """Initial population: the given genomes, blends of two of them, and a few entirely random ones."""

    def __init__(self, seeds: Genomes) -> None:
        super().__init__()
        self.seeds = np.unique(seeds, axis=0)

    def _do(self, problem: Any, n_samples: int, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Genomes:
        seeds = self.seeds[:n_samples]
        missing = n_samples - len(seeds)
        a, b = (self.seeds[random_state.integers(len(self.seeds), size=missing)] for _ in range(2))
        blends = np.where(random_state.random(a.shape) < 0.5, a, b)
        chance = random_state.integers(0, problem.xu + 1, size=a.shape)
        wild = random_state.random((missing, 1)) < 0.1
        return np.concatenate([seeds, np.where(wild, chance, blends)])


class PartCrossover(Crossover):  # type: ignore[misc]
    """Crossover that swaps each gene with probability one half or, half of the time, one contiguous stretch of the model."""

    def __init__(self) -> None:
        super().__init__(n_parents=2, n_offsprings=2, prob=0.9)

    def _do(self, problem: Any, X: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        _, n_matings, n_var = X.shape
        ends = np.sort(random_state.integers(0, n_var + 1, size=(2, n_matings, 1)), axis=0)
        position = np.arange(n_var)
        stretch = (position >= ends[0]) & (position < ends[1])
        single = random_state.random((n_matings, n_var)) < 0.5
        swap = np.where(random_state.random((n_matings, 1)) < 0.5, stretch, single)
        return np.stack([np.where(swap, X[1], X[0]), np.where(swap, X[0], X[1])])


class StepMutation(Mutation):  # type: ignore[misc]
    """Mutation that moves about two genes a step up or down; one in five of those jumps anywhere.

    A third of the genomes are re-optimised instead, under random prices, with a random part of the genes free: small steps
    hardly ever find changes that two genes must make together, one up and one down.
    """

    def _do(self, problem: Any, X: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        moved = self._stepped(problem, X, random_state)
        chosen = np.flatnonzero(random_state.random(len(X)) < 1 / 3)
        share = random_state.random((len(chosen), 1)) ** 0.5
        free = random_state.random((len(chosen), X.shape[1])) < share
        prices = price_range(problem.tables, len(chosen), random_state)
        moved[chosen] = minimize_lagrangian(problem.tables, prices, X[chosen].astype(np.int64), free)
        return moved

    def _stepped(self, problem: Any, X: Any, random_state: np.random.Generator) -> Any:
        hit = random_state.random(X.shape) < 2.0 / X.shape[1]
        step = np.where(random_state.random(X.shape) < 0.5, 1, -1)
        jump = random_state.integers(0, problem.xu + 1, size=X.shape)
        moved = np.where(random_state.random(X.shape) < 0.2, jump, X + step)
        return np.clip(np.where(hit, moved, X), 0, problem.xu)
