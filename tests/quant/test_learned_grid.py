"""Learned grids, whose gradients are compared with their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from pmq.core.choice import Choice
from pmq.quant.finetuning import LearnedGrid
from pmq.quant.quantizers import QUANTIZERS, Affine, BFloat16, Codebook, Dynamic, Half, Log, Palette, Power, Quantizer, Relative

LEVELS = [0.0, 10, 20, 30, 50, 80, 100, 255]
GRIDS: dict[str, tuple[Quantizer, Choice]] = {
    "affine": (Affine({"scale": torch.tensor([[0.1]]), "zero_point": torch.tensor([[2.0]])}, 3), Choice(bits=3)),
    "power": (
        Power({"low": torch.tensor([[0.1]]), "high": torch.tensor([[0.9]]), "root": torch.tensor(2.0)}, 3),
        Choice(bits=3, quantizer="power"),
    ),
    "log": (Log({"scale": torch.tensor([[0.8]]), "root": torch.tensor(2.0)}, 3), Choice(bits=3, quantizer="log")),
    "codebook": (
        Codebook({"levels": torch.tensor(LEVELS), "scale": torch.tensor([0.003]), "zero_point": torch.tensor([20.0])}, 3),
        Choice(bits=3, quantizer="codebook"),
    ),
    "dynamic": (Dynamic({}, 3), Choice(bits=3, quantizer="dynamic", granularity="token")),
    "relative": (
        Relative({"levels": torch.tensor([*LEVELS[:-1], 254.0])}, 3),
        Choice(bits=3, quantizer="relative", granularity="token"),
    ),
    "palette": (
        Palette({"levels": torch.tensor([*LEVELS[:-1], 254.0]), "scale": torch.tensor([[0.006]])}, 3),
        Choice(bits=3, quantizer="palette", granularity="channel", symmetric=True),
    ),
    "half": (Half({}, 16), Choice(bits=16, quantizer="half")),
    "bfloat16": (BFloat16({}, 16), Choice(bits=16, quantizer="bfloat16")),
}


def test_every_quantizer_has_a_case() -> None:
    assert set(GRIDS) == set(QUANTIZERS)


@pytest.mark.parametrize("name", GRIDS)
def test_it_computes_what_its_quantizer_does(name: str) -> None:
    grid, x = LearnedGrid(*GRIDS[name], n_values=64), torch.rand(1, 64) * 1.2 - 0.1
    for parameter in grid.parameters():
        torch.nn.init.constant_(parameter, 0.15)
    torch.testing.assert_close(grid(x), grid.quantizer()(x), rtol=0, atol=0)
    assert grid.quantizer().bits == GRIDS[name][0].bits
    if name not in ("dynamic", "relative", "half", "bfloat16"):
        assert grid.quantizer().numbers != GRIDS[name][0].numbers


@pytest.mark.parametrize("name", ["affine", "power", "log", "codebook", "palette"])
def test_gradients_are_those_of_lsq(name: str) -> None:
    """Between the levels rounding is the identity; the gain's derivative is that of ``exp(gain) * q(x / exp(gain))``."""
    quantizer, choice = GRIDS[name]
    n_values, x = 64, (torch.rand(1, 64) * 1.6 - 0.3).requires_grad_()
    grid, factor = LearnedGrid(quantizer, choice, n_values), torch.randn(1, 64)
    (grid(x) * factor).sum().backward()
    low, high = (float(end) for end in quantizer.ends)
    inside = ((x >= low) & (x <= high)).float()
    assert 0 < inside.sum() < 64
    torch.testing.assert_close(x.grad, factor * inside)
    balance = 1 / math.sqrt(n_values * (2 ** (choice.bits - 1) - 1))
    value = quantizer(x.detach())
    torch.testing.assert_close(grid.gain.grad.sum(), (factor * (value - x.detach() * inside)).sum() * balance)
    # beyond the levels the values follow the gain exactly, so that a difference quotient measures the derivative
    beyond, step = torch.tensor([[high * 2]]), 1e-3
    quotient = (quantizer.scaled(math.exp(step))(beyond) - quantizer.scaled(math.exp(-step))(beyond)) / (2 * step)
    grid.gain.grad = None
    grid(beyond).sum().backward()
    torch.testing.assert_close(grid.gain.grad.sum(), quotient.sum() * balance, rtol=1e-3, atol=1e-6)
    if name not in ("log", "palette"):
        torch.testing.assert_close(grid.shift.grad.sum(), ((factor * (1 - inside)).sum() + 1) * (high - low) * balance)


def test_symmetric_grids_keep_their_middle() -> None:
    quantizer = Affine.from_range(torch.tensor([[-1.0]]), torch.tensor([[1.0]]), 3, symmetric=True)
    grid = LearnedGrid(quantizer, Choice(bits=3, symmetric=True), 8)
    assert grid.shift is None
    assert grid.quantizer().numbers["zero_point"] == [4.0]


@pytest.mark.parametrize("name", ["affine", "codebook"])
def test_moved_levels_stay_on_whole_steps(name: str) -> None:
    moved = GRIDS[name][0].shifted(torch.tensor([[-0.213]]))
    (zero_point,) = moved.numbers["zero_point"]
    assert zero_point == round(zero_point)
    assert zero_point > GRIDS[name][0].numbers["zero_point"][0]
    assert float(moved.ends[0]) < float(GRIDS[name][0].ends[0])


def test_levels_that_begin_at_zero_are_not_moved() -> None:
    with pytest.raises(NotImplementedError, match="log"):
        GRIDS["log"][0].shifted(torch.tensor([[0.1]]))
