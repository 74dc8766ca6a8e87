"""A loss of one's own: errors beside FP32's, and directions whose covariance is its Hessian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pmq.core import PmqError
from pmq.core.task import Task
from pmq.quant import output_error
from pmq.quant.custom_loss import STEPS, check_loss, directions
from pmq.quant.gradients import log_likelihoods

_GENERATOR = torch.Generator().manual_seed(0)
_MIX = torch.randn(3, 6, 6, generator=_GENERATOR)
HESSIANS = _MIX @ _MIX.mT


def bowl(reference: Tensor, output: Tensor) -> Tensor:
    """Half of d' H d, and a constant that does not count."""
    d = output - reference
    return 0.5 * torch.einsum("bi,bij,bj->b", d, HESSIANS, d) + 7.0


def test_fp32_has_no_error_and_others_have_their_excess() -> None:
    reference, output = torch.randn(3, 6, generator=_GENERATOR), torch.randn(3, 6, generator=_GENERATOR)
    task = Task("classification", loss=bowl)
    assert output_error(reference, reference, task).tolist() == [0.0, 0.0, 0.0]
    assert torch.allclose(output_error(reference, output, task), bowl(reference, output) - 7, atol=1e-5)


def test_directions_are_the_hessians_root_times_normal_vectors() -> None:
    output = torch.randn(3, 6, generator=_GENERATOR)
    assert STEPS >= 6
    (found,) = directions(bowl, output, torch.Generator().manual_seed(3), 1)
    normal = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
    values, vectors = torch.linalg.eigh(HESSIANS.double())
    root = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT
    assert torch.allclose(found.double(), torch.einsum("bij,bj->bi", root, normal.double()), rtol=1e-3, atol=1e-3)


def test_fisher_information_is_that_of_the_models_own_divergence() -> None:
    """A loss that is the KL divergence weighs errors as the task does by itself."""

    def divergence(reference: Tensor, output: Tensor) -> Tensor:
        p, q = reference.log_softmax(-1), output.log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1)

    logits = torch.randn(1, 5, generator=_GENERATOR).requires_grad_()
    p = logits.detach().softmax(-1)[0]
    wanted = torch.diag(p) - p.outer(p)
    losses = log_likelihoods(logits, Task("classification", loss=divergence), torch.Generator().manual_seed(1), 800)
    drawn = torch.stack([torch.autograd.grad(loss, logits)[0][0] for loss in losses])
    assert torch.allclose(drawn.mT @ drawn / len(drawn), wanted, atol=0.04)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda reference, output: (output - reference).square().mean(), "one finite value for each of 2 images"),
        (lambda reference, output: (output - reference).abs().sum(1), "no second derivative"),
        (lambda reference, output: reference.sum(1), "no second derivative|cannot be differentiated"),
        (lambda reference, output: output.nothing, "fails on outputs of shape"),
        (lambda reference, output: torch.log(reference - output - 1).sum(1), "finite"),
    ],
)
def test_losses_that_cannot_be_used_are_told(loss: object, said: str) -> None:
    with pytest.raises(PmqError, match=said):
        check_loss(loss, torch.randn(2, 4))  # type: ignore[arg-type]
