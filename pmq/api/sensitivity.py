"""The verb ``sensitivity``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import Tensor, nn

from pmq.core.coverage import check_coverage, coverage
from pmq.core.memory_limit import limited_memory, report_excess
from pmq.core.recipe import find_recipe
from pmq.core.task import AUTO, Loss
from pmq.evaluation import RayOptions, executor_of
from pmq.metrics import METRICS, Probe
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.image_split import CALIB_IMAGES
from pmq.pipeline.images import gather_images
from pmq.pipeline.measure import check_quantizers, measure
from pmq.pipeline.search.state import SearchState, spread_state
from pmq.pipeline.subject import Subject
from pmq.pipeline.torch_modes import undisturbed
from pmq.quant import prepare


@undisturbed
def sensitivity(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    metrics: tuple[str, ...] = ("measured",),
    *,
    space: str | SpaceFile = "default",
    recipe: str = "fast",
    n_calibration: int = CALIB_IMAGES,
    batch_size: int = 32,
    seed: int = 0,
    device: str | None = None,
    task: str = AUTO,
    loss: Loss | None = None,
    partial: bool = False,
    ray: RayOptions | None = None,
    memory: float | None = None,
) -> pd.DataFrame:
    """Measure the error that each choice of each component makes at the output, by one or several metrics.

    Args:
        model: a module (left unchanged), a timm name, or ``None`` for the embedded model.
        images: images ``(N, C, H, W)`` or batches of them: the first ``n_calibration`` calibrate, and the metrics measure on as
            many after them, because errors look too small on images that quantizers were fitted to. If there are no others,
            the metrics measure on the calibration images.
        metrics: names of metrics, see :mod:`pmq.metrics`.
        space: name or path of a search space, or a space already read.
        recipe: recipe that quantizes the model.
        n_calibration: see ``images``.
        batch_size: images in a forward pass.
        seed: seed of every random draw.
        device: device to run on, such as ``cuda``.
        task: meaning of the outputs, a name of :class:`pmq.core.task.Task`; ``auto`` derives it from their number.
        loss: custom loss that replaces the task's own error, see :func:`pmq.search`.
        partial: continue although less than half of the model can be quantized.
        ray: workers of a Ray cluster that share the work; the errors are the same.
        memory: bytes that this process should not exceed, see :class:`pmq.RunOptions`.

    Returns:
        A row for each metric, component and choice: ``metric component kind role bits quantizer error``. The frame's
        ``attrs["seconds"]`` holds the seconds of each metric, without the fitting of quantizers.

    Raises:
        PmqError: an input is wrong; the message names it in one line.

    Example:
        >>> import torch, pmq
        >>> table = pmq.sensitivity(None, torch.randn(4, 1, 28, 28), ("fisher",), space="w4a8")
        >>> sorted(table["bits"].unique().tolist())
        [4, 8]
    """
    chosen = [METRICS[name] for name in metrics]
    gathered = gather_images(images, 2 * n_calibration)
    calib, measured_on = gathered[:n_calibration], gathered[n_calibration:]
    space_file, chosen_recipe = read_space(space), find_recipe(recipe)
    whole, norms = space_file.operators is not None, space_file.norms_written_out
    subject = Subject.of(model, device, calib, task=task, whole=whole, norms=norms)
    subject = subject.scaled(calib).with_loss(loss, calib)
    searched = Space(space_file, subject.inventory, chosen_recipe.estimator)
    check_quantizers(searched)
    check_coverage(coverage(subject.inventory, searched.choices), partial)
    frames, seconds = [], {}
    with (
        limited_memory(memory),
        prepare(subject.model, subject.inventory, calib, chosen_recipe, seed, task=subject.task).simulator() as simulator,
        executor_of(ray) as executor,
    ):
        probe = Probe(simulator, measured_on if len(measured_on) else calib, subject.task, {}, batch_size, seed)
        spread_state(executor, SearchState(simulator, probe), searched.choices)
        if not executor.n_workers:
            simulator.prepare(searched.choices)
        for each in chosen:
            table = measure(replace(probe), searched.choices, each.name)
            frames.append(table.frame(subject.inventory))
            seconds[each.name] = table.seconds
    report_excess(memory)
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs["seconds"] = seconds
    return frame
