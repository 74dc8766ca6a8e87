"""Rounding with second-order compensation, in which later columns compensate for the error of each column."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.core.choice import FLOATS, Choice
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
        scale, low = (
            from_rows(t.expand_as(rows).contiguous(), weight.shape).flatten(1).double()
            for t in (quantizer.parameters["scale"], -quantizer.parameters["zero_point"])
        )
        order = self._order
        codes = _round(weight.flatten(1).double()[:, order], scale[:, order], low[:, order], 2**choice.bits - 1, self._upper)
        codes = codes[:, order.argsort()]
        return QuantizedWeight(to_rows(codes.reshape(weight.shape), choice).to(torch.uint8), quantizer, weight.shape)


def _round(weight: Tensor, scale: Tensor, low: Tensor, top: int, upper: Tensor) -> Tensor:
    """Return integer codes ``(O, I)`` from 0 to ``top``; ``upper`` is the upper Cholesky factor of the inverse moment."""
    weight, codes = weight.clone(), torch.empty_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        block, errors = weight[:, start:stop], torch.zeros_like(weight[:, start:stop])
        with threads_by_size(block.numel()):
            for i in range(stop - start):
                j = start + i
                codes[:, j] = ((block[:, i] / scale[:, j]).round() - low[:, j]).clamp(0, top)
                errors[:, i] = (block[:, i] - (codes[:, j] + low[:, j]) * scale[:, j]) / upper[j, j]
                block[:, i + 1 :] -= errors[:, i : i + 1] * upper[j, j + 1 : stop]
        with threads_by_size(weight.numel()):
            weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes
