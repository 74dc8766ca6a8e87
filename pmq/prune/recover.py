"""Recovery without training: the layer behind removed channels is fitted anew, in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.progress import track
from pmq.core.pruning import PruningPlan
from pmq.models import split_stages
from pmq.prune.losses import BATCH
from pmq.prune.units import EMBEDDING, Unit, prunable_units

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

    Each sees what really reaches it in the pruned model, and is to give what it gives in ``exact``; what the residual
    stream has already lost before it, it makes good for as far as it can. That is regularised least squares.

    Args:
        exact: the model before it was pruned.
        pruned: the same pruned by ``plan``.
        plan: what was removed.
        images: ``(N, C, H, W)``.
        row_weights: module -> how much each row of its output matters ``(N, T)``; all the same without.
        strength: see ``STRENGTH``.
    """
    before, after = split_stages(exact), split_stages(pruned)
    units = [u for u in prunable_units(pruned) if u.name in plan.units and plan.units[u.name].share < 1]
    kept = plan.units[EMBEDDING].indices if EMBEDDING in plan.units else None  # of the residual stream
    wanted, given = list(images.split(BATCH)), list(images.split(BATCH))
    for index in track(range(len(before)), "recovering"):
        prefix = before.prefixes[index - 1] + "." if 0 < index <= len(before.prefixes) else ""
        here = [u for u in units if prefix and u.name.startswith(prefix)] if before.prefixes else units
        outputs: dict[str, list[Tensor]] = {unit.last: [] for unit in here}
        with _listening(exact, {name: _keeper(rows) for name, rows in outputs.items()}):
            wanted = [before.run(x, index, index + 1) for x in wanted]
        for unit in here:
            layer: Any = pruned.get_submodule(unit.last)
            sums = LeastSquares()
            rows = zip(outputs[unit.last], _row_weights(row_weights, unit, outputs), strict=True)

            def add(module: nn.Module, args: tuple[Tensor], y: Tensor, sums: LeastSquares = sums, rows: Any = rows) -> None:
                (x,), (target, weight) = args, next(rows)
                sums.update(x.reshape(-1, x.shape[-1]), target if kept is None else target[:, kept], weight.to(x.device))

            with _listening(pruned, {unit.last: add}):
                for x in given:
                    after.run(x, index, index + 1)
            weight, bias = sums.solve(layer.weight.detach(), strength)
            layer.weight.data.copy_(weight)
            if layer.bias is not None:
                layer.bias.data.copy_(bias)
        given = [after.run(x, index, index + 1) for x in given]


@contextmanager
def _listening(model: nn.Module, hooks: Mapping[str, Any]) -> Iterator[None]:
    handles = [model.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keeper(rows: list[Tensor]) -> Any:
    return lambda layer, args, output: rows.append(output.reshape(-1, output.shape[-1]))


def _row_weights(row_weights: Mapping[str, Tensor] | None, unit: Unit, outputs: Mapping[str, list[Tensor]]) -> Iterator[Tensor]:
    """Of each batch."""
    if row_weights is None:
        return (torch.ones(len(rows)) for rows in outputs[unit.last])
    return (part.reshape(-1) for part in row_weights[unit.last].split(BATCH))
