"""The default metric: two estimates of the Fisher information, where one reduces the noise of the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.component import Component
from pmq.metrics.base import Entry, Metric, Probe, register
from pmq.metrics.fisher import by_image, elementwise, sampled_label_losses
from pmq.metrics.passes import Recorder, sum_scores
from pmq.metrics.sensitivity_table import SensitivityTable
from pmq.quant.gradients import DRAWS

#: share retained of the deviation of a component's log ratio from its kind's mean, and of a choice's from its component's
COMPONENT_WEIGHT, CHOICE_WEIGHT = 0.7, 0.2


@register
class ShrunkFisher(Metric):
    """``fisher_elementwise``, scaled by a smoothed ratio of ``fisher`` to it.

    ``(g . d)**2`` accounts for errors of one component that cancel or add up, but it is a noisy estimate from few images:
    the square of one number per image and label. ``sum(g**2 * d**2)`` averages over all values and has little noise, but
    treats errors as independent. The ratio of the two depends mostly on the kind of component, so its logarithm is
    shrunk: a component's deviation towards the mean of its kind, and a choice's deviation towards the mean of its component.
    """

    name = "fisher_shrunk"
    remeasured_each_round = True
    piecewise = False

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Entry]:
        totals = sum_scores(probe, choices, sampled_label_losses, _both_scores)
        scale = 0.5 / (DRAWS * len(probe.images))
        estimates = {name: np.maximum(t.cpu().numpy() * scale, 1e-30) for name, t in totals.items()}  # (choices, 2)
        kinds = {name: (c := probe.simulator.inventory[name]).role + c.kind for name in estimates}
        for name, errors in _shrunk(estimates, kinds).items():
            yield from ((name, choice, float(error)) for choice, error in zip(choices[name], errors, strict=True))


def _both_scores(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    return torch.stack([score(recorder, component, changes, gradients, n_images) for score in (by_image, elementwise)], 1)


def _shrunk(estimates: Mapping[str, np.ndarray], kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the errors ``(choices,)`` of each component from both estimates ``(choices, 2)``."""
    ratios = {name: np.log(b[:, 0] / b[:, 1]) for name, b in estimates.items()}
    kind_ratios: dict[str, list[float]] = defaultdict(list)
    for name, ratio in ratios.items():
        kind_ratios[kinds[name]].append(float(ratio.mean()))
    shrunk = {}
    for name, ratio in ratios.items():
        kind_mean, mean = float(np.mean(kind_ratios[kinds[name]])), float(ratio.mean())
        log_ratio = kind_mean + COMPONENT_WEIGHT * (mean - kind_mean) + CHOICE_WEIGHT * (ratio - mean)
        shrunk[name] = estimates[name][:, 1] * np.exp(log_ratio)
    return shrunk
