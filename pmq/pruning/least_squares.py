"""Recovery without training: the layer behind removed channels is fitted anew, in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.progress import track
from pmq.core.pruning import PruningPlan
from pmq.graph import captured
from pmq.pruning.losses import BATCH
from pmq.pruning.statistics import LeastSquares, Weighed
from pmq.pruning.units import EMBEDDING, find_units

#: pull towards the layer's own weights, relative to the mean square of its inputs
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
    """Fit the layers of ``pruned`` behind removed channels anew, in place, block by block.

    A weight is to make of the channels that are left what it made of all: regularised least squares on what reaches it in
    ``exact``. (On what reaches it in ``pruned``, whose errors say nothing, least squares would shrink it.) A bias makes the
    mean of the output right for what does reach it in ``pruned``.

    Args:
        exact: the model before it was pruned; its channels are those that the plan names.
        pruned: the same pruned by ``plan``.
        plan: what was removed.
        images: ``(N, C, H, W)``.
        row_weights: module -> how much each row of its output matters ``(N, T)``; all the same without.
        strength: see ``STRENGTH``.
    """
    image = images[:1].to(next(exact.parameters()).device)
    before, after = captured(exact, image), captured(pruned, image)
    units = {u.last: u for u in find_units(exact).found if u.name in plan.units and plan.units[u.name].share < 1}
    stream = plan.units[EMBEDDING].indices if EMBEDDING in plan.units else slice(None)
    device = next(exact.parameters()).device
    wanted, given = ([batch.to(device) for batch in images.split(BATCH)] for _ in range(2))
    for index, cut in enumerate(track(before.program.cuts, "recovering")):
        sums = {last: LeastSquares() for last in units if last in cut.modules}
        weighed = Weighed(row_weights)

        def add(name: str, x: Tensor, y: Tensor, weight: Tensor, sums: dict[str, LeastSquares] = sums) -> None:
            sums[name].update(x[:, plan.units[units[name].name].indices], y[:, stream], weight)

        with weighed.listening(before, list(sums), add):
            wanted = [before.run(x, index, index + 1) for x in weighed.counted(wanted)]
        for name, of in sums.items():
            layer: Any = after.get_submodule(name)  # its parameters are those of the module pruned
            layer.weight.data.copy_(of.solve(layer.weight.detach(), strength)[0])
            if layer.bias is None:
                continue
            seen = LeastSquares()  # of which the mean of the inputs is all that is wanted

            def see(name: str, x: Tensor, y: Tensor, weight: Tensor, seen: LeastSquares = seen) -> None:
                seen.update(x[:, :0], x, weight)

            with weighed.listening(after, [name], see):
                for x in weighed.counted(given):
                    after.run(x, index, index + 1)
            layer.bias.data.copy_(of.wanted - layer.weight.double() @ seen.wanted)
        given = [after.run(x, index, index + 1) for x in given]
