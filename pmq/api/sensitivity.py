"""The sensitivity table as a command of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from torch import Tensor, nn

from pmq.core.coverage import check_coverage, coverage
from pmq.core.recipe import find_recipe
from pmq.core.task import AUTO, Loss
from pmq.metrics import METRICS, Probe
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.images import gather_images
from pmq.pipeline.measure import check_quantizers, measure
from pmq.pipeline.modes import undisturbed
from pmq.pipeline.subject import CALIB_IMAGES, Subject
from pmq.quant import prepare


@undisturbed
def sensitivity(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    metrics: tuple[str, ...] = ("measured",),
    *,
    space: str | SpaceFile = "default",
    recipe: str = "fast",
    calib_images: int = CALIB_IMAGES,
    batch_size: int = 32,
    seed: int = 0,
    device: str | None = None,
    task: str = AUTO,
    loss: Loss | None = None,
    partial: bool = False,
) -> pd.DataFrame:
    """Measure how much the output suffers from each choice of each component, by one metric or several.

    The first ``calib_images`` calibrate, as many after them are measured on: on those that ranges and rounding were fitted
    to, errors look smaller than they are. Only if there are no others, those are.

    ``task`` says what the outputs mean, a ``loss`` of one's own what is measured in place of its figure
    (:func:`pmq.search`); with ``partial`` models are measured of which less than half can be quantized, see
    :func:`pmq.search`.

    Returns a row for each metric, component and choice: ``metric component kind role bits quantizer error``; the frame's
    ``attrs["seconds"]`` holds what each metric took, with quantizers and ranges fitted beforehand.

    Example:
        >>> import torch, pmq
        >>> table = pmq.sensitivity(None, torch.randn(4, 1, 28, 28), ("fisher",), space="w4a8")
        >>> sorted(table["bits"].unique().tolist())
        [4, 8]
    """
    chosen = [METRICS[name] for name in metrics]
    gathered = gather_images(images, 2 * calib_images)
    calib, measured_on = gathered[:calib_images], gathered[calib_images:]
    subject = Subject.of(model, device, calib, task=task).scaled(calib).judged_by(loss, calib)
    how = find_recipe(recipe)
    laid_out = Space(space if isinstance(space, SpaceFile) else read_space(space), subject.inventory, how.estimator)
    check_quantizers(laid_out)
    check_coverage(coverage(subject.inventory, laid_out.choices), partial)
    prepared = prepare(subject.model, subject.inventory, calib, how, seed, task=subject.task)
    frames, seconds = [], {}
    with prepared.simulator() as simulator:
        simulator.prepare(laid_out.choices)
        for each in chosen:
            probe = Probe(simulator, measured_on if len(measured_on) else calib, subject.task, {}, batch_size, seed)
            table = measure(probe, laid_out.choices, each.name)
            frames.append(table.frame(subject.inventory))
            seconds[each.name] = table.seconds
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs["seconds"] = seconds
    return frame
