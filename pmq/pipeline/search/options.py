"""Option classes of a search; every option has a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pmq.core.recipe import Recipe
from pmq.core.task import AUTO, Loss
from pmq.cost import LatencyTable
from pmq.evaluation.ray_options import RayOptions
from pmq.optimize.constraints import Constraints
from pmq.pipeline.image_split import CALIB_IMAGES, HELD_OUT
from pmq.pipeline.search.stopping import ROUNDS


@dataclass(frozen=True)
class SearchOptions:
    """How the model is quantized, what is searched besides bits, and when the search stops.

    Attributes:
        recipe: recipe that quantizes the model: ``minmax``, ``percentile``, ``mse``, ``fast`` or ``best``. The tables and the
            candidates quantize each component separately; the layer-by-layer steps of ``best`` are applied to the finalists.
        reconstruct: learn rounding and scales of the chosen allocation, block by block.
        patches: give each patch of the chosen allocation bits of its own, ``static`` or ``dynamic`` (:func:`pmq.reallocate`);
            the budget includes the size of the map.
        prune: search the width of each block too: hidden channels, the rank of heads, and the number of heads.
        merge: search the number of tokens to merge behind each block too.
        constraints: fixed bits, excluded layers, and the fewest and most bits.
        metric: sensitivity metric, see :mod:`pmq.metrics`.
        n_rounds: most rounds; the search stops earlier when a round gains nothing.
        max_evals: most candidates to simulate in rounds.
        time_limit: seconds after which no round begins and no further candidate is simulated.
        latency: latency table of the space's choices (:func:`pmq.profile`), for budgets such as ``latency=12ms``.
        task: meaning of the outputs, a name of :class:`pmq.core.task.Task`; ``auto`` derives it from their number.
        loss: ``loss(reference, output)`` that replaces the task's own error: outputs ``(B, ...)`` of FP32 and of a candidate
            -> ``(B,)``, twice differentiable and least where the two are equal.
        partial: continue although less than half of the model can be quantized.
        reference: FP32 model that candidates are compared with, where it is not the model itself: that before pruning.
        crop_pct: crop of the images, where it differs from the model's data config.
        data_config: preprocessing of the images, where the model does not define it or it differs: ``mean``, ``std``,
            ``interpolation``, ``crop_pct``.
    """

    recipe: str | Recipe = "best"
    reconstruct: bool = False
    patches: str | None = None
    prune: bool = False
    merge: bool = False
    constraints: Constraints | None = None
    metric: str = "fisher_shrunk"
    n_rounds: int = ROUNDS
    max_evals: int | None = None
    time_limit: float | None = None
    latency: LatencyTable | None = None
    task: str = AUTO
    loss: Loss | None = None
    partial: bool = False
    reference: nn.Module | None = None
    crop_pct: float | None = None
    data_config: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DataSplit:
    """How many images calibrate, and how many are held out.

    Attributes:
        n_calibration: number of calibration images, which come first.
        n_held_out: number of images after them; a third measures sensitivity, the rest evaluate candidates.
    """

    n_calibration: int = CALIB_IMAGES
    n_held_out: int = HELD_OUT


@dataclass(frozen=True)
class RunOptions:
    """How the search runs, and where its results are stored.

    Attributes:
        seed: seed of every random draw.
        batch_size: images in a forward pass.
        device: device to run on, such as ``cuda``.
        results: folder in which the run directory is named after model and budget, where ``out`` names none.
        resume: resume a killed run.
        memory: bytes that this process should not exceed: codes and statistics of weights are kept on disk beyond 0.8 of it.
            The rest of what a search holds cannot be limited. Results are the same. ``None`` keeps them in memory.
        ray: workers of a Ray cluster that share the work; ``None`` for this process alone. Results are the same.
        command: facts about how the run was started, which the manifest stores.
    """

    seed: int = 0
    batch_size: int = 32
    device: str | torch.device | None = None
    results: Path | str | None = None
    resume: bool = False
    memory: float | None = None
    ray: RayOptions | None = None
    command: Mapping[str, Any] | None = None
