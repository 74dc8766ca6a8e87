"""What a search can be told beside a model, images and a budget; everything has a default."""

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
from pmq.optimize.constraints import Constraints
from pmq.pipeline.search.stopping import ROUNDS
from pmq.pipeline.subject import CALIB_IMAGES, HELD_OUT


@dataclass(frozen=True)
class SearchOptions:
    """How the model is quantized, what is searched beside bits, and when the search stops.

    Attributes:
        recipe: how the model is quantized: ``minmax``, ``percentile``, ``mse``, ``fast`` or ``best``. Tables and candidates
            quantize each component by itself; the steps of ``best`` that go layer by layer finish the best of them.
        reconstruct: learn rounding and scales of the chosen allocation, block by block.
        patches: give each patch bits of its own in the chosen allocation, ``static`` or ``dynamic`` ones
            (:func:`pmq.reallocate`); the budget counts the map.
        prune: decide beside bits how much is kept of each block: hidden channels, the rank of heads, and heads.
        wishes: constraints of the user: bits to keep, layers to leave out, the fewest and most bits.
        metric: sensitivity metric, see :mod:`pmq.metrics`.
        n_rounds: rounds at most; the search stops sooner if nothing is gained.
        max_evals: allocations to simulate in rounds.
        time_limit: seconds after which no round begins and no further candidate is simulated.
        latency: measured milliseconds of the space's choices (:func:`pmq.profile`), for ``latency=12ms``.
        task: what outputs mean: a name of :class:`pmq.core.task.Task`; ``auto`` goes by their number.
        loss: ``loss(reference, output)``, what errors are measured by in place of the task's own figure: outputs ``(B, ...)``
            of FP32 and of a candidate -> ``(B,)``, twice differentiable and least where the two are the same.
        partial: go on though less than half of the model can be quantized.
        reference: FP32 model that candidates are to agree with, where that is not the model: that before pruning.
        crop_pct: how the images were cropped, for the record, where the model's data config says otherwise.
        data_config: how images were prepared, for the record, where the model does not say, or otherwise: ``mean``, ``std``,
            ``interpolation``, ``crop_pct``.
    """

    recipe: str | Recipe = "best"
    reconstruct: bool = False
    patches: str | None = None
    prune: bool = False
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
    """How many images do what.

    Attributes:
        n_calibration: the first images, which calibrate.
        n_held_out: the next ones, of which some measure sensitivity and the rest judge candidates.
    """

    n_calibration: int = CALIB_IMAGES
    n_held_out: int = HELD_OUT


@dataclass(frozen=True)
class RunOptions:
    """How the work is done and what is kept of it.

    Attributes:
        seed: of every random draw.
        batch_size: images at once.
        device: where to run.
        results: a folder in which a run directory is named after model and budget, where none is given.
        resume: go on with a killed run.
        command: what the manifest should remember of how the run was started.
    """

    seed: int = 0
    batch_size: int = 32
    device: str | torch.device | None = None
    results: Path | str | None = None
    resume: bool = False
    command: Mapping[str, Any] | None = None
