"""The default metric: two estimates of the Fisher information, the noise of one taken out by the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.component import Component
from pmq.metrics.base import Found, Metric, Probe, register
from pmq.metrics.fisher import by_image, draws_of, elementwise
from pmq.metrics.passes import Recorder, scored
from pmq.metrics.table import SensitivityTable
from pmq.quant.gradients import DRAWS

#: how much is believed of what a component's ratio differs from its kind's, and a choice's from its component's
OF_COMPONENT, OF_CHOICE = 0.7, 0.2


@register
class ShrunkFisher(Metric):
    """``fisher_elementwise`` times what ``fisher`` says, on average, that it misses.

    ``(g . d)**2`` knows that errors of one component cancel or add up, but of few images it is a noisy estimate: a square
    of one number for each image and label. ``sum(g**2 * d**2)`` averages over all values and has little noise, but takes
    errors for independent. How far apart they are depends on the kind of component most of all, so the logarithm of
    their ratio is shrunk: to the kind's mean, for the part that a component differs from it, and to the component's mean,
    for the part that its choices do.
    """

    name = "fisher_shrunk"
    renewed = True
    piecewise = False

    def _measure(self, probe: Probe, choices: Mapping[str, list[Choice]], table: SensitivityTable) -> Iterator[Found]:
        totals = scored(probe, choices, draws_of(probe), _both)
        scale = 0.5 / (DRAWS * len(probe.images))
        both = {name: np.maximum(t.cpu().numpy() * scale, 1e-30) for name, t in totals.items()}  # (choices, 2)
        kinds = {name: (c := probe.simulator.inventory[name]).role + c.kind for name in both}
        for name, error in _shrunk(both, kinds).items():
            yield from ((name, choice, float(e)) for choice, e in zip(choices[name], error, strict=True))


def _both(recorder: Recorder, component: Component, changes: Sequence[Tensor], gradients: Tensor, n_images: int) -> Tensor:
    return torch.stack([score(recorder, component, changes, gradients, n_images) for score in (by_image, elementwise)], 1)


def _shrunk(both: Mapping[str, np.ndarray], kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Errors ``(choices,)`` of each component from both estimates ``(choices, 2)``."""
    ratios = {name: np.log(b[:, 0] / b[:, 1]) for name, b in both.items()}
    of_kind: dict[str, list[float]] = defaultdict(list)
    for name, ratio in ratios.items():
        of_kind[kinds[name]].append(float(ratio.mean()))
    shrunk = {}
    for name, ratio in ratios.items():
        kind, own = float(np.mean(of_kind[kinds[name]])), float(ratio.mean())
        believed = kind + OF_COMPONENT * (own - kind) + OF_CHOICE * (ratio - own)
        shrunk[name] = both[name][:, 1] * np.exp(believed)
    return shrunk
