"""Least-squares reconstruction without training: refits the layer behind removed channels in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.progress import track
from pmq.core.pruning import PruningPlan
from pmq.graph import captured
from pmq.pruning.losses import BATCH
from pmq.pruning.statistics import LeastSquares, RowWeighting
from pmq.pruning.units import EMBEDDING, find_units

#: ridge strength towards the layer's original weights, relative to the mean square of its inputs
STRENGTH = 0.1


@torch.no_grad()
def least_squares_reconstruction(
    exact: nn.Module,
    pruned: nn.Module,
    plan: PruningPlan,
    images: Tensor,
    row_weights: Mapping[str, Tensor] | None = None,
    strength: float = STRENGTH,
) -> None:
    """Refit the layers of ``pruned`` behind removed channels, in place, block by block.

    Weights are refitted by ridge regression so that the remaining channels reproduce the output of all channels. The
    regression uses the layer's inputs in ``exact``: those in ``pruned`` contain errors, whose noise would shrink the weights.
    A bias is then set so that the mean output is right for the layer's actual inputs in ``pruned``.

    Args:
        exact: the model before pruning; its channels are numbered as in the plan.
        pruned: the same model, pruned by ``plan``.
        plan: the pruning plan.
        images: ``(N, C, H, W)``.
        row_weights: module -> weights ``(N, T)`` of the rows of its output; uniform by default.
        strength: ridge strength, see ``STRENGTH``.
    """
    image = images[:1].to(next(exact.parameters()).device)
    before, after = captured(exact, image), captured(pruned, image)
    units = {u.last: u for u in find_units(exact).units if u.name in plan.units and plan.units[u.name].share < 1}
    stream = plan.units[EMBEDDING].indices if EMBEDDING in plan.units else slice(None)
    device = next(exact.parameters()).device
    exact_inputs, pruned_inputs = ([batch.to(device) for batch in images.split(BATCH)] for _ in range(2))
    for index, cut in enumerate(track(before.program.cuts, "reconstructing")):
        sums = {last: LeastSquares() for last in units if last in cut.modules}
        weighting = RowWeighting(row_weights)

        def add(name: str, x: Tensor, y: Tensor, weight: Tensor, sums: dict[str, LeastSquares] = sums) -> None:
            sums[name].update(x[:, plan.units[units[name].name].indices], y[:, stream], weight)

        with weighting.observing(before, list(sums), add):
            exact_inputs = [before.run(x, index, index + 1) for x in weighting.numbered(exact_inputs)]
        for name, layer_sums in sums.items():
            layer: Any = after.get_submodule(name)  # shares its parameters with ``pruned``
            layer.weight.data.copy_(layer_sums.solve(layer.weight.detach(), strength)[0])
            if layer.bias is None:
                continue
            inputs = LeastSquares()  # only used for the mean of the layer's inputs

            def add_inputs(name: str, x: Tensor, y: Tensor, weight: Tensor, inputs: LeastSquares = inputs) -> None:
                inputs.update(x[:, :0], x, weight)

            with weighting.observing(after, [name], add_inputs):
                for x in weighting.numbered(pruned_inputs):
                    after.run(x, index, index + 1)
            layer.bias.data.copy_(layer_sums.mean_target - layer.weight.double() @ inputs.mean_target)
        pruned_inputs = [after.run(x, index, index + 1) for x in pruned_inputs]
