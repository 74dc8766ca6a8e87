"""Rounding with second-order compensation: each column's error is made good by the columns that follow."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.core.choice import FLOATS, Choice
from pmq.quant.weights import QuantizedWeight, fit, from_rows, quantize_weight, to_rows

#: columns whose later neighbours are updated at once
BLOCK = 64
#: added to the diagonal, relative to its mean: inputs that are always zero must not divide by zero
DAMPING = 0.01


@torch.no_grad()
def gptq_quantize(weight: Tensor, choice: Choice, second_moment: Tensor) -> QuantizedWeight:
    """Quantize ``weight`` ``(O, I, ...)`` so that its product with inputs of ``second_moment`` ``(I, I)`` changes least.

    Scales are those of plain rounding. Columns go in order of falling moment; the update is OBQ's in the order-free form
    of GPTQ (2210.17323), which needs one Cholesky factor of the inverse.
    """
    if choice.quantizer in FLOATS:  # next to nothing is lost that could be made good
        return quantize_weight(weight, choice)
    rows = to_rows(weight, choice)
    quantizer = fit(rows, choice)
    scale, low = (
        from_rows(t.expand_as(rows).contiguous(), weight.shape).flatten(1).double()
        for t in (quantizer.parameters["scale"], -quantizer.parameters["zero_point"])
    )
    moment = second_moment.double()
    order = moment.diagonal().argsort(descending=True, stable=True)
    moment = moment[order][:, order]
    damping = DAMPING * moment.diagonal().mean().clamp(min=1e-12)
    moment = moment + damping * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moment)), upper=True)
    codes = _round(weight.flatten(1).double()[:, order], scale[:, order], low[:, order], 2**choice.bits - 1, upper)
    codes = codes[:, order.argsort()]
    return QuantizedWeight(to_rows(codes.reshape(weight.shape), choice).to(torch.uint8), quantizer, weight.shape)


def _round(weight: Tensor, scale: Tensor, low: Tensor, top: int, upper: Tensor) -> Tensor:
    """Integer codes from 0, ``(O, I)``; ``upper`` is the upper Cholesky factor of the inverse moment."""
    weight, codes = weight.clone(), torch.empty_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        block, errors = weight[:, start:stop], torch.zeros_like(weight[:, start:stop])
        for i in range(stop - start):
            j = start + i
            codes[:, j] = ((block[:, i] / scale[:, j]).round() - low[:, j]).clamp(0, top)
            errors[:, i] = (block[:, i] - (codes[:, j] + low[:, j]) * scale[:, j]) / upper[j, j]
            block[:, i + 1 :] -= errors[:, i : i + 1] * upper[j, j + 1 : stop]
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes
