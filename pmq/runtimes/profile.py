"""Measurement of the latency of each layer at each choice, inside the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from pmq.core.component import Inventory
from pmq.core.progress import track
from pmq.cost.latency import PLAIN, LatencyTable
from pmq.runtimes.base import Target
from pmq.runtimes.bench import ROUNDS, Bench, Maker, Mode, mode_key
from pmq.runtimes.timing import machine, median_spread

#: number of models with random choices whose latencies update the table
MIXTURES = 12
#: the same number for targets on which models are slow to build
FEW = 2
#: relative standard deviations of the update: of each kind of layer at each choice individually, of kinds, of choices, of
#: the rest; and of a measurement relative to the best sum over layers
EACH, KIND, CHOICE, REST, NOISE = 0.02, 0.05, 0.15, 0.1, 0.02


def profile_layers(
    target: Target,
    model: nn.Module,
    inventory: Inventory,
    choices: Mapping[str, Sequence[Mode]],
    name: str,
    image_size: Sequence[int],
    batch_size: int = 1,
    threads: int = 1,
    rounds: int = ROUNDS,
) -> LatencyTable:
    """Measure a latency table.

    Layers of the same kind and shape are changed together, because the change of a single layer is harder to measure. The
    effect of a change depends on the rest of the model: where all else is FP32, caches hold less. Each change is therefore
    measured in two models, one with all other layers in FP32 and one with all others at the fastest choice, interleaved with
    the unchanged models, and the mean of both counts. Models with one choice throughout and models with random choices then
    update the table: a runtime may fuse work at the border of two int8 layers, which no sum over layers can represent; after
    the update the sum is slightly off everywhere rather than far off somewhere. Where models are slow to build, layers are
    timed one at a time outside the model, and fewer models update the table.

    Args:
        target: the runtime.
        model: the model in evaluation mode, on the CPU.
        inventory: components of the model.
        choices: layer -> modes that it supports.
        name: name of the model, for the record.
        image_size: ``(C, H, W)``.
        batch_size: number of images per batch.
        threads: number of threads of the runtime.
        rounds: number of rounds per comparison.
    """
    image = torch.randn(batch_size, *image_size)
    skeleton = target.skeleton(model, list(choices), image)
    bench = Bench(target, skeleton, Maker(model, inventory, choices), image.numpy(), threads, rounds)
    kinds: dict[tuple[object, ...], list[str]] = {}
    for layer in choices:
        weight, source = inventory[f"{layer}.weight"], inventory[f"{layer}.input"]
        kinds.setdefault((weight.kind, weight.shape, source.shape, tuple(map(mode_key, choices[layer]))), []).append(layer)
    groups = list(kinds.values())
    keys = sorted({PLAIN, *(key for modes in choices.values() for key in map(mode_key, modes))})
    uniform = {key: _known(dict.fromkeys(choices, key), choices) for key in keys}
    if target.slow:
        rows = [bench.apart(members[0]) for members in track(groups, "timing layers")]
        fastest = min(uniform, key=lambda key: _sum(groups, rows, key))
    else:
        fastest = bench.fastest_of(uniform)
        rows = [bench.compare(members, fastest) for members in track(groups, "timing layers")]
    mixtures = _mixtures(choices, fastest, FEW if target.slow else MIXTURES)
    models = uniform | {f"mixture {i}": mixture for i, mixture in enumerate(mixtures)}
    times = bench.times(models)
    fp32_ms, spread = median_spread(times[PLAIN]) if target.slow else bench.whole
    measured = [(models[model], float(np.median(timings))) for model, timings in times.items()]
    prior = (groups, rows, fp32_ms - _sum(groups, rows, PLAIN))
    margin = _margin(*prior, measured, len(mixtures))
    rows, rest = _posterior(*prior, measured)
    layers = {layer: row for members, row in zip(groups, rows, strict=True) for layer in members}
    return LatencyTable(
        target=target.name,
        model=name,
        batch_size=batch_size,
        threads=threads,
        fingerprint=fingerprint(target),
        layers=layers,
        rest_ms=rest,
        elsewhere=target.elsewhere,
        margin=margin,
        spread=spread,
    )


def fingerprint(target: Target) -> dict[str, str]:
    """Return what a latency measured here depends on: the machine and the version of the runtime."""
    return machine() | {name: text for name, text in target.versions().items() if name == target.runtime}


def _known(keys: dict[str, str], choices: Mapping[str, Sequence[Mode]]) -> dict[str, str]:
    """Return ``keys`` with FP32 for layers that do not support their mode."""
    return {layer: key if key in map(mode_key, choices[layer]) else PLAIN for layer, key in keys.items()}


def _sum(groups: list[list[str]], rows: list[dict[str, float]], key: str) -> float:
    """Return the milliseconds of all layers in a mode, in FP32 for layers that do not support it."""
    return sum(len(members) * row.get(key, row[PLAIN]) for members, row in zip(groups, rows, strict=True))


def _mixtures(choices: Mapping[str, Sequence[Mode]], fastest: str, count: int) -> list[dict[str, str]]:
    """Draw models with random choices, with a growing share of layers at the fastest one."""
    rng = np.random.default_rng(0)
    mixtures = []
    for share in np.linspace(0.1, 0.9, count):
        keys = {
            n: fastest if rng.random() < share else mode_key(modes[int(rng.integers(len(modes)))]) for n, modes in choices.items()
        }
        mixtures.append(_known(keys, choices))
    return mixtures


def _margin(
    groups: list[list[str]],
    rows: list[dict[str, float]],
    rest: float,
    measured: list[tuple[dict[str, str], float]],
    mixtures: int,
) -> float:
    """Return twice the root mean square relative error when each of the last ``mixtures`` is predicted from all others."""
    off = []
    for m in range(len(measured) - mixtures, len(measured)):
        remaining = [model for i, model in enumerate(measured) if i != m]
        updated, rest_ms = _posterior(groups, rows, rest, remaining)
        keys, ms = measured[m]
        predicted = rest_ms + sum(updated[g][keys[layer]] for g, members in enumerate(groups) for layer in members)
        off.append(ms / predicted - 1)
    return 2 * float(np.sqrt(np.mean(np.square(off))))


def _posterior(
    groups: list[list[str]], rows: list[dict[str, float]], rest: float, measured: list[tuple[dict[str, str], float]]
) -> tuple[list[dict[str, float]], float]:
    """Return the most probable milliseconds of each kind of layer, and of the rest, given those of whole models.

    This is Bayesian linear regression with the earlier measurements as prior mean.
    """
    at = {(g, key): i for i, (g, key) in enumerate((g, key) for g, row in enumerate(rows) for key in row)}
    prior = np.array([rows[g][key] for g, key in at] + [rest])
    counts = np.zeros((len(measured), len(prior)))
    counts[:, -1] = 1
    for m, (keys, _) in enumerate(measured):
        for g, members in enumerate(groups):
            for layer in members:
                counts[m, at[g, keys[layer]]] += 1
    times = np.array([ms for _, ms in measured])
    sizes = np.array([max(rows[g].values()) for g, _ in at])
    kinds, choices = np.array([g for g, _ in at]), np.array([key for _, key in at])
    same = EACH**2 * np.eye(len(at)) + KIND**2 * (kinds[:, None] == kinds) + CHOICE**2 * (choices[:, None] == choices)
    covariance = np.zeros((len(prior), len(prior)))
    covariance[:-1, :-1] = same * np.outer(sizes, sizes)
    covariance[-1, -1] = (REST * times.max()) ** 2
    weighed = counts @ covariance
    noise = np.diag((NOISE * times) ** 2)
    posterior = prior + weighed.T @ np.linalg.solve(weighed @ counts.T + noise, times - counts @ prior)
    return [{key: float(posterior[at[g, key]]) for key in row} for g, row in enumerate(rows)], float(posterior[-1])
