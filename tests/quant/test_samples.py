"""Samples of activations."""

from __future__ import annotations

import torch

from pmq.core.choice import Choice
from pmq.quant.quantizers import Relative
from pmq.quant.samples import EVEN, Samples, largest_in_token


def filled(x: torch.Tensor, squares: torch.Tensor | None = None) -> Samples:
    """Samples of ``x`` ``(N, tokens, C)``, batch by batch."""
    samples, generator = Samples(), torch.Generator().manual_seed(0)
    for batch in x.split(2):
        samples.add(batch.reshape(1, -1), 2 / len(x), generator, largest_in_token(batch).reshape(1, -1))
    for batch in [] if squares is None else squares.split(2):
        samples.weigh(batch.reshape(1, -1))
    return samples


def test_shares_are_of_the_largest_magnitude_in_the_token() -> None:
    x = torch.randn(6, 5, 32, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.0, 1, 2, 30, 0.1])[:, None]
    values, weights = filled(x).relative()
    assert values.shape == weights.shape
    assert float(values.abs().max()) <= 1
    absolute = filled(x).compute()[0][:, :-2]
    # an error of a share is one of the value as its token is large
    torch.testing.assert_close(values * (weights / EVEN).sqrt(), absolute)


def test_weights_are_those_of_the_values() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 5, 32, generator=generator)
    heavy = (x > 0.5).float() * 1000
    values, weights = filled(x, heavy).relative()
    matters = weights > weights.median()
    assert float(values[matters].mean()) > 0.3 > float(values.mean())


def test_they_fit_the_quantizer_that_a_choice_names() -> None:
    x = torch.randn(4, 5, 32, generator=torch.Generator().manual_seed(3)) * torch.tensor([1.0, 10, 100, 1, 1])[:, None]
    choice = Choice(bits=4, quantizer="relative", granularity="token")
    relative = filled(x).fit(choice)
    assert isinstance(relative, Relative)
    static = filled(x).fit(Choice(bits=4, quantizer="codebook"))
    small = x[:, 3:]  # which are nothing beside the others
    assert float((relative(small) - small).square().mean()) < 0.02 * float((static(small) - small).square().mean())
