"""Importance by what cannot be made good: the error that is left when the layer behind is fitted anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.progress import track
from pmq.core.task import CLASSIFICATION, Task
from pmq.pruning.importance import Importance, Scores, register
from pmq.pruning.losses import BATCH, RowWeights, row_weights
from pmq.pruning.statistics import LeastSquares, Weighed
from pmq.pruning.units import Unit

#: added to the covariance, relative to its mean variance
DAMPING = 0.01
#: in which channels go; more change little
ROUNDS = 96


@register
class Reconstruction(Importance):
    """Error of the next layer's output, refitted, without a channel: Optimal Brain Surgeon for whole channels.

    Channels are taken away one after the other, each time the one that costs least given those that are gone: what two
    channels both say is kept once. The score of a channel is what all up to it cost together, by
    ``|w|^2 / (inverse covariance)`` (SparseGPT 2301.00774, ZipLM 2302.04089).
    """

    name = "reconstruction"

    @torch.no_grad()
    def score(
        self,
        model: nn.Module,
        units: Sequence[Unit],
        images: Tensor,
        task: Task = CLASSIFICATION,
        seed: int = 0,
        weights: RowWeights | None = None,
    ) -> Scores:
        """Score every channel, see :meth:`Importance.score`."""
        if any(unit.kind == "embedding" for unit in units):
            raise PmqError("importance 'reconstruction' knows no residual streams; drop structure 'embedding', or use magnitude")
        layers, device = [unit.last for unit in units], next(model.parameters()).device
        weighed = Weighed(row_weights(model, layers, images, task, seed) if weights is None else weights)
        sums = {name: LeastSquares() for name in layers}

        def add(name: str, x: Tensor, y: Tensor, weight: Tensor) -> None:
            sums[name].update(x, y[:, :0], weight)  # inputs are all that is asked of

        with weighed.listening(model, layers, add):
            for batch in weighed.counted(track(images.split(BATCH), "importance")):
                model(batch.to(device))
        found = {}
        for unit in track(units, "ordering channels"):
            layer: Any = model.get_submodule(unit.last)
            found[unit.name] = elimination(sums[unit.last].covariance.cpu(), layer.weight.detach().double().cpu())
        return found


def elimination(covariance: Tensor, weight: Tensor) -> Tensor:
    """Total error when each channel goes, in the order in which they go: ``(I, I)``, ``(O, I)`` -> ``(I,)``.

    Of many channels some go at once, as if they did not matter to each other; those that stay make good for all of them.

    >>> elimination(torch.diag(torch.tensor([1.0, 4.0, 1.0]).double()), torch.tensor([[1.0, 1.0, 3.0]]).double()).round()
    tensor([ 1.,  5., 14.], dtype=torch.float64)
    """
    n = len(covariance)
    ridge = DAMPING * covariance.diagonal().mean().clamp(min=1e-30)
    inverse = torch.linalg.inv(covariance + ridge * torch.eye(n, dtype=covariance.dtype))
    channels, errors, total = torch.arange(n), torch.zeros(n, dtype=covariance.dtype), 0.0
    at_once = -(-n // ROUNDS)
    while len(channels):
        cost = weight.square().sum(0) / inverse.diagonal()
        order = cost.argsort(stable=True)
        gone, stay = order[:at_once], order[at_once:].sort().values
        back = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])  # (gone, channels)
        together = float((weight[:, gone] @ torch.linalg.inv(inverse[gone][:, gone]) * weight[:, gone]).sum())
        alone = cost[gone].cumsum(0)
        errors[channels[gone]] = total + alone / alone[-1].clamp(min=1e-300) * together
        total += together
        weight = (weight - weight[:, gone] @ back)[:, stay]
        inverse = (inverse - inverse[:, gone] @ back)[stay][:, stay]
        channels = channels[stay]
    return errors
