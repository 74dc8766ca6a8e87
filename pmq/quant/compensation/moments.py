"""Statistics of a layer's rows, streamed: all that closed-form compensation needs to know of the images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pmq.graph import Layer

#: part of the weight that every row of a layer's input has, however little the output depends on it
EVEN = 0.1


class RowMean:
    """Mean of rows ``(T, C)``, weighed.

    A row's weight is the squared gradient at the layer's output there: late layers of a ViT matter at the class token
    alone, and may be off wherever nothing depends on them. Memory does not depend on the number of rows.

    >>> mean = RowMean()
    >>> mean.update(torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 3.0]))
    >>> mean.compute()
    tensor([0.7250])
    """

    def __init__(self) -> None:
        self._sums: list[Tensor | float] = [0.0, 0.0]
        self._masses = [0.0, 0.0]

    def update(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Add rows ``x`` ``(T, C)`` with weights ``(T,)``; all the same without."""
        even = torch.ones(len(x), device=x.device)
        for i, w in enumerate((even, even if weight is None else weight)):
            self._sums[i] = self._sums[i] + self._sum(x, w)
            self._masses[i] += float(w.sum())

    def _sum(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight @ x

    def compute(self) -> Tensor:
        """The mean: ``EVEN`` of it by the same weight for all rows, the rest by the given weights."""
        even, weighed = (torch.as_tensor(s) / max(m, 1e-30) for s, m in zip(self._sums, self._masses, strict=True))
        return EVEN * even + (1 - EVEN) * weighed


class SecondMoment(RowMean):
    """Mean of the outer product of rows with themselves: ``(T, I)`` rows, ``(I, I)`` mean."""

    def _sum(self, x: Tensor, weight: Tensor) -> Tensor:
        return (x * weight[:, None]).T @ x


def has_rows(layer: Layer) -> bool:
    """Whether a layer's weight multiplies rows: a linear's, or an undivided convolution's patches."""
    return (
        layer.kind in ("linear", "conv1d", "conv2d") and layer.groups == 1 and not any(isinstance(s, str) for s in layer.settings)
    )


def rows_of(layer: Layer, x: Tensor) -> Tensor:
    """Lay a layer's input out as the rows ``(T, I)`` that its weight ``(O, I)`` multiplies, image by image."""
    if layer.kind != "linear":
        stride, padding, dilation = (layer.sides(i, default) for i, default in enumerate((1, 0, 1)))
        if x.ndim == 3:  # of one dimension: an image of one row
            x, stride, padding, dilation = x[:, :, None], (1, *stride), (0, *padding), (1, *dilation)
        size = layer.weight.shape[2:] if layer.weight.ndim == 4 else (1, layer.weight.shape[2])
        x = nn.functional.unfold(x, size, dilation, padding, stride).transpose(1, 2)
    else:
        x = layer.images_first("input", x)
    return x.reshape(-1, x.shape[-1])


def output_rows(layer: Layer, y: Tensor) -> Tensor:
    """Lay a layer's output out as rows ``(T, O)``, image by image, in the order of :func:`rows_of`."""
    y = layer.images_first("output", y) if layer.kind == "linear" else y.flatten(2).transpose(1, 2)
    return y.reshape(-1, y.shape[-1])
