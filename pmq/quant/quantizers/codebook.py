"""Quantization to the optimal levels for the samples, by table look-up."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Parameters, Quantizer, positive, register
from pmq.quant.ranges import EstimatesRanges

#: number of groups of neighbouring samples from which the levels are computed
ATOMS = 512
#: number of equal cells between the lowest and the highest level; all values in a cell are quantized to the same level
CELLS = 4096
#: largest integer of the even grid under the levels
TOP = 255
#: largest ratio of the width of the even grid to the width of the levels, in the search for a grid that fits them closely
WIDEST = 1.5


@register
class Codebook(Quantizer):
    """Quantizer to the nearest of ``2**bits`` free levels, with one table for an entire tensor.

    The levels minimize the weighted squared error exactly (up to the merging of neighbouring samples): in one dimension this
    is a shortest-path problem, whereas Lloyd's iteration would stop at a local optimum near its start. GELU outputs need free
    levels: half of the values are in ``[-0.17, 0]``, and those that matter are in a long tail.

    A level is ``(i - zero_point) * scale`` for an integer ``i`` from 0 to 255, so a runtime needs only the table in addition
    to what 8 bits need. The nearest level is looked up for one of 4096 cells, so a value whose distance to the midpoint
    of two levels is less than the width of a cell may be rounded to either.

    >>> q = Codebook({"levels": torch.tensor([0.0, 51.0, 76.0, 255.0]), "scale": torch.tensor(0.02),
    ...               "zero_point": torch.tensor(51.0)}, bits=2)
    >>> q(torch.tensor([-3.0, 0.2, 0.3, 3.0]))
    tensor([-1.0200,  0.0000,  0.5000,  4.0800])
    """

    name = "codebook"
    shared = frozenset({"levels", "scale", "zero_point"})
    movable = True

    def __init__(self, parameters: Parameters, bits: int, symmetric: bool = False) -> None:
        self.levels, self.bits = parameters["levels"].reshape(-1), bits
        self.scale, self.zero_point = parameters["scale"].reshape(()), parameters["zero_point"].reshape(())
        values = (self.levels - self.zero_point) * self.scale
        self.lowest = float(values[0])
        width = max(float(values[-1]) - self.lowest, 1e-30) / CELLS
        self.cells_per_unit = 1.0 / width
        centres = self.lowest + (torch.arange(CELLS, device=values.device) + 0.5) * width
        self.code_of_cell = nearest(centres, values)
        self._values = values
        self._table, self._int8 = values[self.code_of_cell], (self.levels - 128).to(torch.int8)[self.code_of_cell]
        self.int8_grid = (float(self.scale), 128 - int(self.zero_point))

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Return the levels as ascending integers, with their scale and zero point."""
        return {"levels": self.levels, "scale": self.scale, "zero_point": self.zero_point}

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest level."""
        return self._values[0], self._values[-1]

    def shifted(self, share: Tensor) -> Codebook:
        """Return the quantizer whose levels lie higher by a ``share`` of their range, rounded to steps of the grid under them."""
        distance = share.reshape(()) * (self.levels[-1] - self.levels[0])
        zero_point = (self.zero_point - distance).round().clamp(0, TOP) + 0.0
        return Codebook({"levels": self.levels, "scale": self.scale, "zero_point": zero_point}, self.bits)

    @classmethod
    def fit(cls, x: Tensor, bits: int, symmetric: bool, estimator: EstimatesRanges, weight: Tensor | None = None) -> Codebook:
        """Fit the levels to all rows together; the estimator only checks the samples."""
        estimator.check(x)
        weight = torch.ones_like(x) if weight is None else weight
        levels = best_levels(x.reshape(-1), weight.reshape(-1), 2**bits)
        mass = torch.zeros_like(levels).index_add_(0, nearest(x.reshape(-1), levels), weight.reshape(-1))
        scale, zero_point = grid_under(levels, mass)
        integers = (levels / scale + zero_point).round().clamp(0, TOP)
        return cls({"levels": integers, "scale": scale, "zero_point": zero_point}, bits)

    def codes(self, x: Tensor) -> Tensor:
        """Return the index of the nearest level."""
        return self._look_up(self.code_of_cell, x)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the level of each code."""
        return self._values[codes]

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize by one look-up."""
        return self._look_up(self._table, x)

    def int8(self, x: Tensor) -> Tensor:
        """Return the integers of the nearest levels, minus 128."""
        return self._look_up(self._int8, x)

    def _look_up(self, table: Tensor, x: Tensor) -> Tensor:
        return look_up(table, (x - self.lowest).mul_(self.cells_per_unit))


def look_up(table: Tensor, positions: Tensor) -> Tensor:
    """Return the entry of the cell that each position is in, from 0 to ``CELLS``; overwrites the positions."""
    cells = positions.clamp_(0, CELLS - 1).to(torch.int32)
    return table.index_select(0, cells.reshape(-1)).reshape(positions.shape)


def nearest(x: Tensor, levels: Tensor) -> Tensor:
    """Return the index of the nearest of ascending levels."""
    return torch.bucketize(x, (levels[1:] + levels[:-1]) / 2, out_int32=True)


def grid_under(levels: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of the 256-step grid that moves ``levels`` least, weighted by the ``mass`` of each level.

    >>> scale, zero_point = grid_under(torch.tensor([0.0, 0.7, 2.0]), torch.tensor([9.0, 9.0, 1.0]))
    >>> (torch.tensor([0.7, 2.0]) / scale).round(decimals=1).tolist(), float(zero_point)
    ([63.0, 180.0], 0.0)
    """
    low, high = levels[0].clamp(max=0.0), levels[-1].clamp(min=0.0)
    scales = positive((high - low) / TOP) * torch.linspace(1.01, WIDEST, 500, device=levels.device)[:, None]
    zero_points = (-low / scales).round().clamp(0, TOP)
    integers = (levels / scales + zero_points).round().clamp(0, TOP)
    errors = ((integers - zero_points) * scales - levels).square() @ mass
    best = errors.argmin()
    return scales[best, 0], zero_points[best, 0] + 0.0


def best_levels(x: Tensor, weight: Tensor, count: int) -> Tensor:
    """Return the ascending levels with the least weighted squared error: ``(K,)``, ``(K,)`` -> ``(count,)``.

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
    """Return edges of groups of sorted samples: half of them where the optimal levels are dense, half evenly over the range."""
    density = weight.pow(1 / 3).cumsum(0)  # approximates Panter and Dite's density of optimal levels
    grid = torch.linspace(0, 1, ATOMS // 2, dtype=x.dtype, device=x.device)
    dense = torch.searchsorted(density / density[-1], grid)
    even = torch.searchsorted(x, x[0] + (x[-1] - x[0]) * grid)
    ends = torch.tensor([0, len(x)], device=x.device)
    return torch.cat([dense, even, ends]).clamp(0, len(x)).unique()
