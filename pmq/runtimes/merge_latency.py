"""Measurement of whole models that merge tokens, in turns with the model that merges none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pmq.core.component import Inventory
from pmq.core.progress import track
from pmq.graph import CapturedModel
from pmq.runtimes.base import Target
from pmq.runtimes.bench import ROUNDS, Bench, Maker, Mode
from pmq.runtimes.timing import interleaved


def relative_latency(
    target: Target,
    models: Mapping[str, tuple[CapturedModel, Inventory]],
    modes: Mapping[str, Sequence[Mode]],
    key: str,
    image_size: Sequence[int],
    threads: int = 1,
) -> dict[str, float]:
    """Return the milliseconds of each of ``models`` relative to the first one, by name.

    Args:
        target: the runtime.
        models: models with the same layers, by name.
        modes: the modes that each layer has.
        key: mode of all layers, see :func:`pmq.runtimes.bench.mode_key`; a layer without it stays in FP32.
        image_size: ``(C, H, W)``.
        threads: number of threads of the runtime.
    """
    image = torch.randn(1, *image_size, generator=torch.Generator().manual_seed(0))
    sessions = {}
    for name, (model, inventory) in track(list(models.items()), "building merged models"):
        skeleton = target.skeleton(model, list(modes), image)
        sessions[name] = Bench(target, skeleton, Maker(model, inventory, modes), image.numpy(), threads).session(
            dict.fromkeys(modes, key)
        )
    array = image.numpy()
    times = interleaved({name: (lambda s=s: s(array)) for name, s in sessions.items()}, 2 * ROUNDS)  # type: ignore[misc]
    whole = times[next(iter(models))]
    return {name: float(np.median(ms / whole)) for name, ms in times.items()}
