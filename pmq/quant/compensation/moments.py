"""Streamed statistics of a layer's rows, which are all that closed-form compensation needs of the images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pmq.graph import Layer

#: fraction of the weight that is distributed evenly over all rows, whatever their effect on the output
EVEN = 0.1


class RowMean:
    """Weighted mean of rows ``(T, C)``.

    The weight of a row is the squared gradient at the same row of the layer's output: late layers of a ViT affect the result
    only at the class token, and errors in rows without effect are harmless. Memory does not depend on the number of rows.

    >>> mean = RowMean()
    >>> mean.update(torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 3.0]))
    >>> mean.compute()
    tensor([0.7250])
    """

    def __init__(self) -> None:
        self._sums: list[Tensor | float] = [0.0, 0.0]
        self._masses = [0.0, 0.0]

    def update(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Add rows ``x`` ``(T, C)`` with weights ``(T,)``, or with equal weights if None."""
        even = torch.ones(len(x), device=x.device)
        for i, w in enumerate((even, even if weight is None else weight)):
            self._sums[i] = self._sums[i] + self._sum(x, w)
            self._masses[i] += float(w.sum())

    def _sum(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted sum over rows."""
        return weight @ x

    def compute(self) -> Tensor:
        """Return the mean: a fraction ``EVEN`` of it with equal weights for all rows, the rest with the weights of the rows."""
        even, weighted = (torch.as_tensor(s) / max(m, 1e-30) for s, m in zip(self._sums, self._masses, strict=True))
        return EVEN * even + (1 - EVEN) * weighted


class SecondMoment(RowMean):
    """Weighted mean ``(I, I)`` of the outer product of each row ``(T, I)`` with itself."""

    def _sum(self, x: Tensor, weight: Tensor) -> Tensor:
        return (x * weight[:, None]).T @ x


def has_rows(layer: Layer) -> bool:
    """Return whether a layer's weight multiplies rows: those of a linear layer, or the patches of an ungrouped convolution."""
    return (
        layer.kind in ("linear", "conv1d", "conv2d") and layer.groups == 1 and not any(isinstance(s, str) for s in layer.settings)
    )


def rows_of(layer: Layer, x: Tensor) -> Tensor:
    """Reshape a layer's input to the rows ``(T, I)`` that its weight ``(O, I)`` multiplies, in the order of images."""
    if layer.kind != "linear":
        stride, padding, dilation = (layer.sides(i, default) for i, default in enumerate((1, 0, 1)))
        if x.ndim == 3:  # a one-dimensional convolution is one of images with a single row
            x, stride, padding, dilation = x[:, :, None], (1, *stride), (0, *padding), (1, *dilation)
        size = layer.weight.shape[2:] if layer.weight.ndim == 4 else (1, layer.weight.shape[2])
        x = nn.functional.unfold(x, size, dilation, padding, stride).transpose(1, 2)
    else:
        x = layer.images_first("input", x)
    return x.reshape(-1, x.shape[-1])


def output_rows(layer: Layer, y: Tensor) -> Tensor:
    """Reshape a layer's output to rows ``(T, O)``, in the order of :func:`rows_of`."""
    y = layer.images_first("output", y) if layer.kind == "linear" else y.flatten(2).transpose(1, 2)
    return y.reshape(-1, y.shape[-1])
