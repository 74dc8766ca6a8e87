"""Errors by a loss of the user: its excess over the loss of FP32, and random directions distributed by its curvature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pmq.core.errors import PmqError, one_line
from pmq.core.task import Loss

#: largest number of steps of Lanczos' method
STEPS = 12


def excess(loss: Loss, reference: Tensor, output: Tensor) -> Tensor:
    """Return the loss of outputs ``(B, ...)`` in excess of the loss of FP32's outputs, for each image ``(B,)``."""
    with torch.no_grad():
        minimum = loss(reference, reference)
    return loss(reference, output).float() - minimum.float()


def loss_name(loss: Loss) -> str:
    """Return the name of a loss for messages and manifests: module and name of the function, or of the object's type."""
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{named.__module__}.{named.__qualname__}"


def check_loss(loss: Loss, output: Tensor) -> None:
    """Check a loss, and its curvature, on FP32's outputs ``(B, ...)``.

    Raises:
        PmqError: the loss fails, does not return one finite value for each image, cannot be differentiated twice with respect
            to its second argument, or has no curvature where both arguments are equal.
    """
    with torch.enable_grad():
        at = output.detach().clone().requires_grad_()
        try:
            value = loss(output.detach(), at)
        except Exception as error:  # the user's code may raise anything
            raise PmqError(f"the loss fails on outputs of shape {tuple(output.shape)}: {one_line(error)}") from None
        if not isinstance(value, Tensor) or value.shape != output.shape[:1] or not bool(value.isfinite().all()):
            returned = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise PmqError(
                f"loss(reference, output) must return one finite value for each of {len(output)} images, a tensor of shape "
                f"({len(output)},); it returned {returned}"
            )
        try:
            curved = any(bool((d != 0).any()) for d in directions(loss, output, torch.Generator().manual_seed(0), 2))
        except RuntimeError as error:
            raise PmqError(f"the loss cannot be differentiated twice with respect to the output: {one_line(error)}") from None
    if not curved:
        raise PmqError(
            "the loss has no second derivative where the output equals the reference, as with an absolute error, but calibration "
            "needs one; square the error, or pass the loss as a metric to pmq.evaluate instead"
        )


def directions(loss: Loss, output: Tensor, generator: torch.Generator, draws: int) -> list[Tensor]:
    """Draw directions ``(B, ...)`` whose covariance is the Hessian of a loss at ``output`` ``(B, ...)``, for each image.

    They are products of the Hessian's square root with normal vectors, computed by Lanczos' method: it needs only a few
    products with the Hessian, which is never formed. Negative curvature, which no loss has at its minimum, counts as zero.
    """
    with torch.enable_grad():
        at = output.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(output.detach(), at).sum(), at, create_graph=True)
        if not slope.requires_grad:
            return [torch.zeros_like(output) for _ in range(draws)]

        def hessian_product(vector: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(slope, at, vector.reshape(slope.shape), retain_graph=True, allow_unused=True)
            return torch.zeros_like(vector) if product is None else product.detach().flatten(1)

        flat = output.detach().flatten(1)
        return [
            _root_product(hessian_product, torch.randn(flat.shape, generator=generator).to(flat)).reshape(output.shape)
            for _ in range(draws)
        ]


def _root_product(product: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
    """Multiply vectors ``(B, C)`` by the square root of symmetric matrices ``(B, C, C)``, which ``product`` multiplies."""
    length = vector.norm(dim=1, keepdim=True)
    basis, diagonal, off_diagonal = [vector / length.clamp(min=1e-30)], [], []
    for _ in range(min(STEPS, vector.shape[1])):
        moved = product(basis[-1])
        diagonal.append((moved * basis[-1]).sum(1))
        size = moved.norm(dim=1, keepdim=True)
        for earlier in [*basis, *basis]:  # twice, as rounding errors remain after one orthogonalization
            moved = moved - (moved * earlier).sum(1, keepdim=True) * earlier
        remainder = moved.norm(dim=1, keepdim=True)
        ended = remainder <= 1e-6 * size.clamp(min=1e-30)
        off_diagonal.append(remainder.masked_fill(ended, 0.0)[:, 0])
        basis.append((moved / remainder.clamp(min=1e-30)).masked_fill(ended, 0.0))
    off = torch.stack(off_diagonal[:-1], 1) if len(off_diagonal) > 1 else vector.new_zeros(len(vector), 0)
    tridiagonal = torch.diag_embed(torch.stack(diagonal, 1)) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    values, vectors = torch.linalg.eigh(tridiagonal.double())
    weights = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors[:, 0, :, None]
    return length * torch.einsum("bk,kbc->bc", weights[..., 0].to(vector), torch.stack(basis[:-1]))
