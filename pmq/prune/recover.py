"""Recovery without training: the layer behind removed channels is fitted anew, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.progress import track
from pmq.core.pruning import PruningPlan
from pmq.models import split_stages
from pmq.prune.losses import BATCH
from pmq.prune.units import EMBEDDING, prunable_units

#: pull towards the layer's own weights, relative to the mean square of its inputs
STRENGTH = 0.1


class LeastSquares:
    """Streamed sums of weighed rows ``x`` ``(T, I)`` and what is wanted of them ``y`` ``(T, O)``.

    >>> sums = LeastSquares()
    >>> sums.update(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0], [5.0]]), torch.ones(3))
    >>> weight, bias = sums.solve(torch.zeros(1, 1), 0.0)
    >>> round(float(weight), 3), round(float(bias), 3)
    (2.0, 1.0)
    """

    def __init__(self) -> None:
        self._sums: tuple[Tensor, ...] = ()

    def update(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Add rows with weights ``(T,)``."""
        w = weight[:, None]
        batch = (w.sum(), (w * x).sum(0), (w * y).sum(0), (w * x).T @ x, (w * y).T @ x)
        sums = tuple(part.double() for part in batch)  # products of a batch need no more than single precision
        self._sums = tuple(a + b for a, b in zip(self._sums, sums, strict=True)) if self._sums else sums

    def solve(self, start: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Weight ``(O, I)`` and bias ``(O,)`` that minimise the squared error plus ``strength * m * |W - start|^2``.

        ``m`` is the mean square of the inputs around their mean.
        """
        mass, x, y, xx, yx = self._sums
        x, y = x / mass, y / mass
        xx, yx = xx / mass - torch.outer(x, x), yx / mass - torch.outer(y, x)
        ridge = strength * xx.diagonal().mean() * torch.eye(len(x), dtype=xx.dtype, device=xx.device)
        floor = 1e-8 * xx.diagonal().mean().clamp(min=1e-30) * torch.eye(len(x), dtype=xx.dtype, device=xx.device)
        weight = torch.linalg.solve(xx + ridge + floor, yx + start.double() @ (ridge + floor), left=False)
        return weight.to(start.dtype), (y - weight @ x).to(start.dtype)

    @property
    def wanted(self) -> Tensor:
        """Mean of the outputs ``(O,)``."""
        mass, _, y, *_ = self._sums
        return y / mass


@torch.no_grad()
def recover(
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
    before, after = split_stages(exact), split_stages(pruned)
    units = [u for u in prunable_units(pruned) if u.name in plan.units and plan.units[u.name].share < 1]
    stream = plan.units[EMBEDDING].indices if EMBEDDING in plan.units else slice(None)
    device = next(exact.parameters()).device
    wanted, given = ([batch.to(device) for batch in images.split(BATCH)] for _ in range(2))
    for index in track(range(len(before)), "recovering"):
        prefix = before.prefixes[index - 1] + "." if 0 < index <= len(before.prefixes) else ""
        here = [u for u in units if prefix and u.name.startswith(prefix)] if before.prefixes else units
        sums = {unit.last: LeastSquares() for unit in here}
        weighed = _Weighed(row_weights)

        def add(name: str, x: Tensor, y: Tensor, weight: Tensor, sums: dict[str, LeastSquares] = sums) -> None:
            sums[name].update(x[:, plan.units[name.rpartition(".")[0]].indices], y[:, stream], weight)

        with weighed.listening(exact, list(sums), add):
            wanted = [before.run(x, index, index + 1) for x in weighed.counted(wanted)]
        for name, of in sums.items():
            layer: Any = pruned.get_submodule(name)
            layer.weight.data.copy_(of.solve(layer.weight.detach(), strength)[0])
            if layer.bias is None:
                continue
            seen = LeastSquares()  # of which the mean of the inputs is all that is wanted

            def see(name: str, x: Tensor, y: Tensor, weight: Tensor, seen: LeastSquares = seen) -> None:
                seen.update(x[:, :0], x, weight)

            with weighed.listening(pruned, [name], see):
                for x in weighed.counted(given):
                    after.run(x, index, index + 1)
            layer.bias.data.copy_(of.wanted - layer.weight.double() @ seen.wanted)
        given = [after.run(x, index, index + 1) for x in given]


class _Weighed:
    """Tells who listens how much each row of the batch that runs matters."""

    def __init__(self, row_weights: Mapping[str, Tensor] | None) -> None:
        self._row_weights, self._batch = row_weights, 0

    def counted(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Give the batches, remembering which it is."""
        for self._batch, x in enumerate(batches):
            yield x

    @contextmanager
    def listening(
        self, model: nn.Module, layers: Sequence[str], hear: Callable[[str, Tensor, Tensor, Tensor], None]
    ) -> Iterator[None]:
        """Call ``hear`` with a layer's name, inputs ``(T, I)``, outputs ``(T, O)`` and weights of rows ``(T,)``."""

        def hook(name: str) -> Any:
            def heard(layer: nn.Module, args: tuple[Tensor], y: Tensor) -> None:
                x, y = (rows.reshape(-1, rows.shape[-1]) for rows in (args[0], y))
                weight = torch.ones(len(x))
                if self._row_weights is not None:
                    weight = self._row_weights[name][self._batch * BATCH : (self._batch + 1) * BATCH].reshape(-1)
                hear(name, x, y, weight.to(x.device))

            return heard

        handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
