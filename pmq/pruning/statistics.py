"""Weighted sums over the rows (tokens) of a layer's inputs and outputs, gathered while images run through a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pmq.pruning.losses import BATCH


class LeastSquares:
    """Streamed sums for weighted least squares from inputs ``x`` ``(T, I)`` to targets ``y`` ``(T, O)``.

    >>> sums = LeastSquares()
    >>> sums.update(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0], [5.0]]), torch.ones(3))
    >>> weight, bias = sums.solve(torch.zeros(1, 1), 0.0)
    >>> round(float(weight), 3), round(float(bias), 3)
    (2.0, 1.0)
    """

    def __init__(self) -> None:
        self._sums: tuple[Tensor, ...] = ()

    def update(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Add rows of inputs ``(T, I)`` and targets ``(T, O)`` with weights ``(T,)``."""
        w = weight[:, None]
        batch = (w.sum(), (w * x).sum(0), (w * y).sum(0), (w * x).T @ x, (w * y).T @ x)
        sums = tuple(part.double() for part in batch)  # single precision suffices within a batch
        self._sums = tuple(a + b for a, b in zip(self._sums, sums, strict=True)) if self._sums else sums

    @property
    def mean_target(self) -> Tensor:
        """Weighted mean of the targets ``(O,)``."""
        mass, _, y, *_ = self._sums
        return y / mass

    @property
    def covariance(self) -> Tensor:
        """Weighted covariance of the inputs ``(I, I)``, in double precision."""
        mass, x, _, xx, _ = self._sums
        return xx / mass - torch.outer(x / mass, x / mass)

    def solve(self, start: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Return weight ``(O, I)`` and bias ``(O,)`` that minimise the squared error plus ``strength * m * |W - start|^2``.

        ``m`` is the mean variance of the inputs.
        """
        mass, x, _, _, yx = self._sums
        x, y, xx = x / mass, self.mean_target, self.covariance
        yx = yx / mass - torch.outer(y, x)
        ridge = strength * xx.diagonal().mean() * torch.eye(len(x), dtype=xx.dtype, device=xx.device)
        floor = 1e-8 * xx.diagonal().mean().clamp(min=1e-30) * torch.eye(len(x), dtype=xx.dtype, device=xx.device)
        weight = torch.linalg.solve(xx + ridge + floor, yx + start.double() @ (ridge + floor), left=False)
        return weight.to(start.dtype), (y - weight @ x).to(start.dtype)


class RowWeighting:
    """Hooks on layers that receive the weights of the rows of the current batch."""

    def __init__(self, row_weights: Mapping[str, Tensor] | None) -> None:
        self._row_weights, self._batch = row_weights, 0

    def numbered(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the batches while tracking the number of the current one."""
        for self._batch, x in enumerate(batches):
            yield x

    @contextmanager
    def observing(
        self, model: nn.Module, layers: Sequence[str], callback: Callable[[str, Tensor, Tensor, Tensor], None]
    ) -> Iterator[None]:
        """Call ``callback`` with a layer's name, inputs ``(T, I)``, outputs ``(T, O)`` and weights of rows ``(T,)``."""

        def hook(name: str) -> Any:
            def observe(layer: nn.Module, args: tuple[Tensor], y: Tensor) -> None:
                x, y = (rows.reshape(-1, rows.shape[-1]) for rows in (args[0], y))
                weight = torch.ones(len(x))
                if self._row_weights is not None:
                    weight = self._row_weights[name][self._batch * BATCH : (self._batch + 1) * BATCH].reshape(-1)
                callback(name, x, y, weight.to(x.device))

            return observe

        handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
