"""Importance by the error that remains after the layer behind the removed channels is refitted."""

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
from pmq.pruning.statistics import LeastSquares, RowWeighting
from pmq.pruning.units import Unit

#: damping added to the diagonal of the covariance, relative to its mean variance
DAMPING = 0.01
#: maximum number of elimination rounds; more hardly change the result
ROUNDS = 96


@register
class Reconstruction(Importance):
    """Error of the next layer's output after it is refitted without a channel: Optimal Brain Surgeon for whole channels.

    Channels are eliminated greedily, each time the one with the least error given those already removed, so that one of two
    redundant channels is kept. The score of a channel is the total error up to its removal, where the error of one removal is
    ``|w|^2 / (diagonal of the inverse covariance)`` (SparseGPT 2301.00774, ZipLM 2302.04089).
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
            raise PmqError(
                "importance 'reconstruction' cannot score residual streams; drop structure 'embedding' or use 'magnitude'"
            )
        layers, device = [unit.last for unit in units], next(model.parameters()).device
        weighting = RowWeighting(row_weights(model, layers, images, task, seed) if weights is None else weights)
        sums = {name: LeastSquares() for name in layers}

        def add(name: str, x: Tensor, y: Tensor, weight: Tensor) -> None:
            sums[name].update(x, y[:, :0], weight)  # only the inputs are needed

        with weighting.observing(model, layers, add):
            for batch in weighting.numbered(track(images.split(BATCH), "importance")):
                model(batch.to(device))
        scores = {}
        for unit in track(units, "ordering channels"):
            layer: Any = model.get_submodule(unit.last)
            scores[unit.name] = elimination(sums[unit.last].covariance.cpu(), layer.weight.detach().double().cpu())
        return scores


def elimination(covariance: Tensor, weight: Tensor) -> Tensor:
    """Return the total error at the removal of each channel, removed greedily: ``(I, I)``, ``(O, I)`` -> ``(I,)``.

    Of many channels several are removed per round, chosen as if they were independent; the remaining channels then
    compensate for all of them together.

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
        removed, remaining = order[:at_once], order[at_once:].sort().values
        compensation = torch.linalg.solve(inverse[removed][:, removed], inverse[removed])  # (removed, channels)
        together = float((weight[:, removed] @ torch.linalg.inv(inverse[removed][:, removed]) * weight[:, removed]).sum())
        alone = cost[removed].cumsum(0)
        errors[channels[removed]] = total + alone / alone[-1].clamp(min=1e-300) * together
        total += together
        weight = (weight - weight[:, removed] @ compensation)[:, remaining]
        inverse = (inverse - inverse[:, removed] @ compensation)[remaining][:, remaining]
        channels = channels[remaining]
    return errors
