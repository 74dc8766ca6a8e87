"""Proof that a rewriting of a model's weights leaves its outputs as they are; what fails it is undone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.progress import message

#: largest relative difference of outputs that counts as rounding, see :func:`relative_error`
TOLERANCE = 1e-4
#: images on which outputs are compared, and how many at once
IMAGES, BATCH = 16, 8


@dataclass(frozen=True)
class Rewriting:
    """What came of a rewriting: its name, the relative error of the outputs after it, and whether it was kept."""

    name: str
    error: float
    kept: bool


class Equivalence:
    """Compares a model with itself as it was, on images.

    Args:
        model: in evaluation mode, as it is to stay.
        images: ``(N, C, H, W)``, of which the first are looked at.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self._original, self._images = copy.deepcopy(model), images[:IMAGES]
        self._wanted = _outputs(model, self._images)
        self._exact: Tensor | None = None

    @torch.no_grad()
    def apply(self, name: str, model: nn.Module, rewrite: Callable[[], None]) -> Rewriting:
        """Let ``rewrite`` change the weights of ``model`` in place, and undo it if its outputs are others then.

        Outputs are compared in single precision, and where they differ by more than ``TOLERANCE`` again in double, which
        tells an error from the rounding that a deep model magnifies. A line tells what was undone.
        """
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        rewrite()
        error = self.error(model)
        if error <= TOLERANCE:
            return Rewriting(name, error, True)
        _restore(model, before)
        message(f"{name} would change what this model computes (relative error {error:.2g}): left out")
        return Rewriting(name, error, False)

    @torch.no_grad()
    def error(self, model: nn.Module) -> float:
        """Relative difference of a model's outputs from those of the original: that in double precision if it is large."""
        error = relative_error(self._wanted, _outputs(model, self._images))
        if error <= TOLERANCE:
            return error
        try:
            if self._exact is None:
                self._exact = _in_double(self._original, self._images)
            return relative_error(self._exact, _in_double(model, self._images))
        except RuntimeError:  # a forward that names a precision of its own cannot be run in another
            return error


@torch.no_grad()
def check_captured(module: nn.Module, model: nn.Module, images: Tensor) -> None:
    """Raise unless ``model``, a graph captured of ``module``, computes the same on ``images`` ``(N, C, H, W)``.

    Raises:
        PmqError: it does not: the module's forward decides by what it is given, or by chance.
    """
    error = Equivalence(module, images.to(next(module.parameters()).device)).error(model)
    if error > TOLERANCE:
        raise PmqError(
            f"the graph captured of {type(module).__name__} computes something else than it does (relative error {error:.2g}); "
            "its forward must not depend on chance, on values of tensors, or on how many images it is given"
        )


def relative_error(wanted: Tensor, found: Tensor) -> float:
    """``|y - y0|`` of the image where it is largest, over the root mean square of ``|y0|``: ``(N, ...)``, ``(N, ...)``.

    Not over each image's own: a single logit may be as near to zero as it likes. Infinite where ``y`` is not finite.

    >>> relative_error(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.5]]))
    0.1
    """
    wanted, found = wanted.flatten(1).double(), found.flatten(1).double()
    if not bool(found.isfinite().all()):
        return math.inf
    size = wanted.square().sum(1).mean().sqrt().clamp(min=1e-30)
    return float((found - wanted).norm(dim=1).max() / size)


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    device = next(model.parameters()).device
    return torch.cat([model(x.to(device)).cpu() for x in images.split(BATCH)])


def _in_double(model: nn.Module, images: Tensor) -> Tensor:
    device = next(model.parameters()).device
    copied = copy.deepcopy(model).double() if device.type != "mps" else copy.deepcopy(model).cpu().double()
    return _outputs(copied, images.double())


def _restore(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Give parameters the values they had; those that a rewriting added go."""
    for name, parameter in list(model.named_parameters()):
        if name in before:
            parameter.data.copy_(before[name])
        else:
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner).register_parameter(leaf, None)
