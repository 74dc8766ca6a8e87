"""Quantization to free levels that are shares of each token's largest magnitude."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Parameters, Quantizer, register
from pmq.quant.quantizers.codebook import CELLS, best_levels, look_up, nearest
from pmq.quant.ranges import EstimatesRanges

#: smallest largest magnitude; values below it are zero for a network
LEAST = 1e-37
#: integer of the level zero, as in a palette; the integers of minus and plus the largest magnitude are 0 and twice this one
MIDDLE = 127


@register
class Relative(Quantizer):
    """Quantizer to the nearest of ``2**bits`` free levels, which are multiplied by the largest magnitude along the last axis.

    Tokens differ in magnitude more than their values differ in distribution, so one table of levels serves all tokens once
    they are scaled alike. A level is ``(i - 127) / 127`` of the largest magnitude for an integer ``i`` from 0 to 254: a runtime
    multiplies these integers, and the results by a factor for each token. Like :class:`Codebook` it looks a level up for one
    of 4096 cells. The cost of finding the largest magnitude is counted with the bit operations.

    >>> q = Relative({"levels": torch.tensor([0.0, 127.0, 190.5, 254.0])}, bits=2)
    >>> q(torch.tensor([[-4.0, 0.3, 4.0], [0.0, 0.05, 0.1]]))
    tensor([[-4.0000,  0.0000,  4.0000],
            [ 0.0000,  0.0500,  0.1000]])
    """

    name = "relative"
    shared = frozenset({"levels"})
    lengths = ()
    #: lowest share, and cells of the table for a share of one
    lowest, cells_per_unit = -1.0, CELLS / 2

    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        self.levels, self.bits = parameters["levels"].reshape(-1), bits
        self._values = (self.levels - MIDDLE) / MIDDLE
        centres = self.lowest + (torch.arange(CELLS, device=self.levels.device) + 0.5) / self.cells_per_unit
        self.code_of_cell = nearest(centres, self._values)
        self._table, self._int8 = self._values[self.code_of_cell], (self.levels - MIDDLE).to(torch.int8)[self.code_of_cell]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Return the levels as ascending integers."""
        return {"levels": self.levels}

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return infinite ends, as magnitudes are not known in advance."""
        return torch.tensor(-torch.inf), torch.tensor(torch.inf)

    @classmethod
    def fit(cls, x: Tensor, bits: int, symmetric: bool, estimator: EstimatesRanges, weight: Tensor | None = None) -> Relative:
        """Fit the levels to shares of the largest magnitude, from -1 to 1; the estimator only checks them."""
        estimator.check(x)
        weight = torch.ones_like(x) if weight is None else weight
        levels = best_levels(x.reshape(-1), weight.reshape(-1), 2**bits)
        return cls({"levels": (levels * MIDDLE + MIDDLE).round().clamp(0, 2 * MIDDLE)}, bits)

    def codes(self, x: Tensor) -> Tensor:
        """Return the index of the nearest level."""
        return self._look_up(self.code_of_cell, x / _largest(x))

    def decode(self, codes: Tensor) -> Tensor:
        """Raise, as codes cannot be decoded without the tokens."""
        raise NotImplementedError("the magnitude of a token is not stored")

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize by one look-up."""
        largest = _largest(x)
        return self._look_up(self._table, x / largest).mul_(largest)

    def by_token(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the integers of the nearest levels, int8 from -127 to 127, and the step of each token ``(..., 1)``."""
        largest = _largest(x)
        return self._look_up(self._int8, x / largest), largest / MIDDLE

    def _look_up(self, table: Tensor, share: Tensor) -> Tensor:
        return look_up(table, share.sub_(self.lowest).mul_(self.cells_per_unit))


def _largest(x: Tensor) -> Tensor:
    """Return the largest magnitude along the last axis, which is kept."""
    return x.abs().amax(-1, keepdim=True).clamp_(min=LEAST)  # aminmax takes nine times as long
