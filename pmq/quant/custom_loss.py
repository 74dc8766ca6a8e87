"""Errors by a loss that the user gives: its excess over FP32's own, and random directions that its curvature shapes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pmq.core.errors import PmqError, one_line
from pmq.core.task import Loss

#: steps of Lanczos' method
STEPS = 12


def excess(loss: Loss, reference: Tensor, output: Tensor) -> Tensor:
    """How much worse outputs ``(B, ...)`` are than those of FP32 would be, image by image: ``(B,)``."""
    with torch.no_grad():
        least = loss(reference, reference)
    return loss(reference, output).float() - least.float()


def loss_name(loss: Loss) -> str:
    """Name of a loss, for messages and manifests: module and name of a function, else of its type."""
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{named.__module__}.{named.__qualname__}"


def check_loss(loss: Loss, output: Tensor) -> None:
    """Try a loss on FP32's outputs ``(B, ...)``, and its curvature there.

    Raises:
        PmqError: it fails, does not give one finite value for each image, cannot be differentiated twice by its second
            argument, or has no curvature where the two are the same.
    """
    with torch.enable_grad():
        at = output.detach().clone().requires_grad_()
        try:
            value = loss(output.detach(), at)
        except Exception as error:  # whatever the user's code raises
            raise PmqError(f"the loss fails on outputs of shape {tuple(output.shape)}: {one_line(error)}") from None
        if not isinstance(value, Tensor) or value.shape != output.shape[:1] or not bool(value.isfinite().all()):
            returned = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise PmqError(
                f"loss(reference, output) must give one finite value for each of {len(output)} images, a tensor "
                f"({len(output)},); it gave {returned}"
            )
        try:
            curved = any(bool((d != 0).any()) for d in directions(loss, output, torch.Generator().manual_seed(0), 2))
        except RuntimeError as error:
            raise PmqError(f"the loss cannot be differentiated twice by the output: {one_line(error)}") from None
    if not curved:
        raise PmqError(
            "the loss has no second derivative where the output is the reference, as an absolute error has not: calibration "
            "goes by that; square the error, or give a metric to pmq.evaluate instead"
        )


def directions(loss: Loss, output: Tensor, generator: torch.Generator, draws: int) -> list[Tensor]:
    """Draw directions ``(B, ...)`` whose covariance is the Hessian of a loss at ``output`` ``(B, ...)``, image by image.

    They are the Hessian's root times normal vectors, by Lanczos' method: a few products with the Hessian, which is never
    made. Directions in which a loss bends downward, as none does at its minimum, count as flat.
    """
    with torch.enable_grad():
        at = output.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(output.detach(), at).sum(), at, create_graph=True)
        if not slope.requires_grad:
            return [torch.zeros_like(output) for _ in range(draws)]

        def bent(vector: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(slope, at, vector.reshape(slope.shape), retain_graph=True, allow_unused=True)
            return torch.zeros_like(vector) if product is None else product.detach().flatten(1)

        flat = output.detach().flatten(1)
        return [_rooted(bent, torch.randn(flat.shape, generator=generator).to(flat)).reshape(output.shape) for _ in range(draws)]


def _rooted(product: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
    """The root of symmetric matrices ``(B, C, C)``, of which products are given, times vectors ``(B, C)``."""
    length = vector.norm(dim=1, keepdim=True)
    basis, diagonal, beside = [vector / length.clamp(min=1e-30)], [], []
    for _ in range(min(STEPS, vector.shape[1])):
        moved = product(basis[-1])
        diagonal.append((moved * basis[-1]).sum(1))
        size = moved.norm(dim=1, keepdim=True)
        for earlier in [*basis, *basis]:  # twice, for rounding leaves something of them
            moved = moved - (moved * earlier).sum(1, keepdim=True) * earlier
        left = moved.norm(dim=1, keepdim=True)
        ended = left <= 1e-6 * size.clamp(min=1e-30)
        beside.append(left.masked_fill(ended, 0.0)[:, 0])
        basis.append((moved / left.clamp(min=1e-30)).masked_fill(ended, 0.0))
    off = torch.stack(beside[:-1], 1) if len(beside) > 1 else vector.new_zeros(len(vector), 0)
    small = torch.diag_embed(torch.stack(diagonal, 1)) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    values, vectors = torch.linalg.eigh(small.double())
    weights = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors[:, 0, :, None]
    return length * torch.einsum("bk,kbc->bc", weights[..., 0].to(vector), torch.stack(basis[:-1]))
