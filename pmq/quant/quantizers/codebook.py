"""Quantization to the levels that are best for the samples: a table look-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Parameters, Quantizer, register

if TYPE_CHECKING:
    from pmq.quant.estimators.base import RangeEstimator

#: samples are merged into so many neighbouring groups before the levels are placed
ATOMS = 512


@register
class Codebook(Quantizer):
    """``2**bits`` free levels, one table for a whole tensor; a value goes to the nearest.

    The levels minimise the weighed squared error exactly (up to the merging of neighbouring samples): in one dimension
    that is a shortest path, where Lloyd's iteration would stop at whatever optimum is near its start. GELU outputs need
    it: half of the values lie in ``[-0.17, 0]``, the ones that matter in a long tail.

    >>> q = Codebook({"levels": torch.tensor([-1.0, 0.0, 0.5, 4.0])}, bits=2)
    >>> q(torch.tensor([-3.0, 0.2, 0.3, 3.0]))
    tensor([-1.0000,  0.0000,  0.5000,  4.0000])
    """

    name = "codebook"

    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        self.levels, self.bits = parameters["levels"].reshape(-1), bits
        self._middles = (self.levels[1:] + self.levels[:-1]) / 2

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The levels, rising."""
        return {"levels": self.levels}

    @classmethod
    def fit(cls, x: Tensor, bits: int, symmetric: bool, estimator: RangeEstimator, weight: Tensor | None = None) -> Codebook:
        """Place the levels for all rows together; the estimator only checks the samples."""
        estimator.check(x)
        weight = torch.ones_like(x) if weight is None else weight
        return cls({"levels": best_levels(x.reshape(-1), weight.reshape(-1), 2**bits)}, bits)

    def codes(self, x: Tensor) -> Tensor:
        """Index of the nearest level."""
        return torch.bucketize(x, self._middles, out_int32=True)

    def decode(self, codes: Tensor) -> Tensor:
        """Look the level up."""
        return self.levels[codes]


def best_levels(x: Tensor, weight: Tensor, count: int) -> Tensor:
    """Levels with the least weighed squared error: ``(K,)``, ``(K,)`` -> ``(count,)``, rising.

    >>> best_levels(torch.tensor([0.0, 0.1, 5.0, 9.0, 9.2]), torch.ones(5), 3)
    tensor([0.0500, 5.0000, 9.1000])
    """
    x, order = x.sort()
    x, weight = x.double(), weight[order].double().clamp(min=1e-12)
    edges = _atoms(x, weight)
    sums = [torch.nn.functional.pad(t.cumsum(0), (1, 0))[edges] for t in (weight, weight * x, weight * x * x)]
    mass, first, second = (s[None, :] - s[:, None] for s in sums)  # of the samples between edges i and j
    cost = (second - first.square() / mass.clamp(min=1e-300)).clamp(min=0)
    cost = torch.where(torch.ones_like(cost).triu().bool(), cost, torch.inf)
    best, steps = cost[0], []
    for _ in range(count - 1):
        best, step = (best[:, None] + cost).min(0)
        steps.append(step)
    cuts = [len(edges) - 1]
    for step in reversed(steps):
        cuts.append(int(step[cuts[-1]]))
    ends = torch.tensor([*cuts, 0]).flip(0)
    start, stop = ends[:-1][ends[1:] > ends[:-1]], ends[1:][ends[1:] > ends[:-1]]
    levels = (first[start, stop] / mass[start, stop]).float()
    return torch.cat([levels, levels[-1:].expand(count - len(levels))])


def _atoms(x: Tensor, weight: Tensor) -> Tensor:
    """Edges of groups of sorted samples: half of them where the optimal levels are dense, half evenly over the range."""
    density = weight.pow(1 / 3).cumsum(0)  # Panter and Dite's density of optimal levels, roughly
    grid = torch.linspace(0, 1, ATOMS // 2, dtype=x.dtype, device=x.device)
    dense = torch.searchsorted(density / density[-1], grid)
    even = torch.searchsorted(x, x[0] + (x[-1] - x[0]) * grid)
    ends = torch.tensor([0, len(x)], device=x.device)
    return torch.cat([dense, even, ends]).clamp(0, len(x)).unique()
