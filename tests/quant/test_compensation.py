from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pmq.core import Choice
from pmq.quant import quantize_weight
from pmq.quant.compensation import Compensator, RowMean, SecondMoment, logit_scale, ridge_corrected


def correlated(rows: int = 400, width: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 6, generator=generator) @ torch.randn(6, width, generator=generator) + 0.1 * torch.randn(
        rows, width, generator=generator
    )


CHOICES = [
    Choice(bits=3, granularity="channel", symmetric=True),
    Choice(bits=4, granularity="tensor"),
    Choice(bits=2, granularity="group", group_size=10, symmetric=True),
    Choice(bits=3, quantizer="palette", granularity="channel", symmetric=True),
    Choice(bits=2, quantizer="palette", granularity="group", group_size=10, symmetric=True),
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: f"{c.quantizer}-{c.granularity}")
def test_products_change_less_than_by_rounding_to_the_nearest(choice: Choice) -> None:
    x, weight = correlated(), torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
    moment = SecondMoment()
    moment.update(x)
    found = Compensator(moment.compute()).quantize(weight, choice)
    errors = [float((x @ (q.dequantize() - weight).T).square().mean()) for q in (found, quantize_weight(weight, choice))]
    assert errors[0] < 0.5 * errors[1]
    assert int(found.codes.max()) < 2**choice.bits
    assert torch.equal(found.quantizer.parameters["scale"], quantize_weight(weight, choice).quantizer.parameters["scale"])


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: f"{c.quantizer}-{c.granularity}")
def test_independent_inputs_leave_nothing_to_compensate(choice: Choice) -> None:
    weight = torch.randn(9, 24)
    assert torch.equal(
        Compensator(torch.eye(24)).quantize(weight, choice).dequantize(), quantize_weight(weight, choice).dequantize()
    )


def test_inputs_that_are_always_zero() -> None:
    x = correlated()
    x[:, ::2] = 0
    for scale in (1.0, 0.0):
        found = Compensator((scale * x).T @ (scale * x)).quantize(torch.randn(3, 24), CHOICES[0])
        assert bool(found.dequantize().isfinite().all())


def test_convolutions_keep_their_shape() -> None:
    weight = torch.randn(5, 3, 2, 4)
    found = Compensator(torch.eye(24)).quantize(weight, CHOICES[0])
    assert found.dequantize().shape == weight.shape


@pytest.mark.parametrize("cls", [RowMean, SecondMoment])
def test_statistics_do_not_depend_on_the_batches(cls: type[RowMean]) -> None:
    x, w = correlated(), torch.rand(400, generator=torch.Generator().manual_seed(2))
    whole, parts = cls(), cls()
    whole.update(x, w)
    for i in range(0, 400, 37):
        parts.update(x[i : i + 37], w[i : i + 37])
    torch.testing.assert_close(parts.compute(), whole.compute())
    want = (x * w[:, None]).mean(0) / w.mean() if cls is RowMean else (x * w[:, None]).T @ x / w.sum()
    even = x.mean(0) if cls is RowMean else x.T @ x / len(x)
    torch.testing.assert_close(whole.compute(), 0.9 * want + 0.1 * even)


@torch.no_grad()
def test_ridge_makes_good_what_quantizing_the_input_cost() -> None:
    x, weight = correlated(), torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
    q = (x / 1.5).round() * 1.5
    moment = SecondMoment()
    for part in torch.cat([q, x], 1).split(100):
        moment.update(part)
    errors = [float((q @ w.T - x @ weight.T).square().mean()) for w in (ridge_corrected(weight, moment.compute(), 1e-3), weight)]
    assert errors[0] < 0.7 * errors[1]
    least = torch.linalg.lstsq(q.double(), (x @ weight.T).double()).solution.T
    torch.testing.assert_close(ridge_corrected(weight, moment.compute(), 0.0).double(), least, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ridge_corrected(weight, moment.compute(), 1e9), weight, rtol=1e-4, atol=1e-4)


def test_ridge_changes_nothing_where_the_input_is_exact() -> None:
    x, weight = correlated(), torch.randn(9, 24)
    moment = SecondMoment()
    moment.update(torch.cat([x, x], 1))
    torch.testing.assert_close(ridge_corrected(weight, moment.compute(), 0.01), weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.6])
def test_logit_scale_makes_a_model_as_sure_as_it_was(factor: float) -> None:
    logits = 3 * torch.randn(40, 10, generator=torch.Generator().manual_seed(2))
    assert logit_scale(logits, logits / factor) == pytest.approx(factor, rel=1e-3)
