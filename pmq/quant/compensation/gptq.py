"""Rounding with second-order compensation, in which later columns compensate for the error of each column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from pmq.core.choice import FLOATS, Choice
from pmq.quant.quantizers import Palette, Quantizer
from pmq.quant.quantizers.codebook import nearest
from pmq.quant.threads import threads_by_size
from pmq.quant.weights import QuantizedWeight, fit, from_rows, quantize_weight, to_rows

#: number of columns after which the remaining columns are updated together
BLOCK = 64
#: value added to the diagonal, relative to its mean, as inputs that are always zero would make the matrix singular
DAMPING = 0.01


class Compensator:
    """Rounding that minimizes the error of a weight's product with inputs of ``second_moment`` ``(I, I)``, at any choice.

    Scales are those of rounding to nearest. Columns are processed in descending order of their moment; the update is that of
    OBQ in the form of GPTQ (2210.17323), which has the same order for all rows and needs one Cholesky factor of the inverse.
    """

    @torch.no_grad()
    def __init__(self, second_moment: Tensor) -> None:
        moment = second_moment.double()
        self._order = moment.diagonal().argsort(descending=True, stable=True)
        moment = moment[self._order][:, self._order]
        damping = DAMPING * moment.diagonal().mean().clamp(min=1e-12)
        moment = moment + damping * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
        with threads_by_size(moment.numel()):
            self._upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moment)), upper=True)

    @torch.no_grad()
    def quantize(self, weight: Tensor, choice: Choice) -> QuantizedWeight:
        """Quantize ``weight`` ``(O, I, ...)``."""
        if choice.quantizer in FLOATS:  # their error is too small to be worth compensating
            return quantize_weight(weight, choice)
        rows = to_rows(weight, choice)
        quantizer = fit(rows, choice)
        order = self._order

        def by_column(parameter: Tensor) -> Tensor:
            return from_rows(parameter.expand_as(rows).contiguous(), weight.shape).flatten(1).double()[:, order]

        grid = _Free(quantizer, by_column) if isinstance(quantizer, Palette) else _Even(quantizer, by_column)
        codes = _round(weight.flatten(1).double()[:, order], grid, self._upper)
        codes = codes[:, order.argsort()]
        return QuantizedWeight(to_rows(codes.reshape(weight.shape), choice).to(torch.uint8), quantizer, weight.shape)


class _Grid(Protocol):
    """Levels of a weight, column by column."""

    def codes(self, values: Tensor, column: int) -> Tensor:
        """Return the codes of the levels nearest to a column's values ``(O,)``."""

    def decode(self, codes: Tensor, column: int) -> Tensor:
        """Return the levels of codes ``(O,)``."""


class _Even:
    """Even levels, with a scale and a zero point for each value ``(O, I)``."""

    def __init__(self, quantizer: Quantizer, by_column: Callable[[Tensor], Tensor]) -> None:
        self._scale, self._low = by_column(quantizer.parameters["scale"]), by_column(-quantizer.parameters["zero_point"])
        self._top = 2**quantizer.bits - 1

    def codes(self, values: Tensor, column: int) -> Tensor:
        return ((values / self._scale[:, column]).round() - self._low[:, column]).clamp(0, self._top)

    def decode(self, codes: Tensor, column: int) -> Tensor:
        return (codes + self._low[:, column]) * self._scale[:, column]


class _Free:
    """Free levels, with a scale for each value ``(O, I)``."""

    def __init__(self, palette: Palette, by_column: Callable[[Tensor], Tensor]) -> None:
        self._scale, self._levels = by_column(palette.scale), palette.integers.double()

    def codes(self, values: Tensor, column: int) -> Tensor:
        return nearest(values / self._scale[:, column], self._levels)

    def decode(self, codes: Tensor, column: int) -> Tensor:
        return self._levels[codes] * self._scale[:, column]


def _round(weight: Tensor, grid: _Grid, upper: Tensor) -> Tensor:
    """Return the codes ``(O, I)`` of a weight; ``upper`` is the upper Cholesky factor of the inverse moment."""
    weight, all_codes = weight.clone(), torch.empty_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        block, errors = weight[:, start:stop], torch.zeros_like(weight[:, start:stop])
        with threads_by_size(block.numel()):
            for i in range(stop - start):
                j = start + i
                all_codes[:, j] = codes = grid.codes(block[:, i], j)
                errors[:, i] = (block[:, i] - grid.decode(codes, j)) / upper[j, j]
                block[:, i + 1 :] -= errors[:, i : i + 1] * upper[j, j + 1 : stop]
        with threads_by_size(weight.numel()):
            weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return all_codes
