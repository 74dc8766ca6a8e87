"""Check that a rewriting of a model's weights leaves its outputs unchanged; a rewriting that fails is undone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.progress import message

#: largest relative difference of outputs that is attributed to rounding, see :func:`relative_error`
TOLERANCE = 1e-4
#: number of images on which outputs are compared, and batch size
IMAGES, BATCH = 16, 8


@dataclass(frozen=True)
class Rewriting:
    """Result of a rewriting: its name, the relative error of the outputs after it, and whether it was kept."""

    name: str
    error: float
    kept: bool


class Equivalence:
    """Comparison of a model's outputs with those of its original state.

    Args:
        model: the original model, in evaluation mode.
        images: ``(N, C, H, W)``; the first ``IMAGES`` of them are used.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self._original, self._images = copy.deepcopy(model), images[:IMAGES]
        self._expected = _outputs(model, self._images)
        self._exact: Tensor | None = None

    @torch.no_grad()
    def apply(self, name: str, model: nn.Module, rewrite: Callable[[], None]) -> Rewriting:
        """Run ``rewrite``, which changes the weights of ``model`` in place, and undo it if the outputs change.

        Outputs are compared in single precision and, where they differ by more than ``TOLERANCE``, again in double precision,
        which separates errors from the rounding that a deep model magnifies. A message reports a rewriting that was undone.
        """
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        rewrite()
        error = self.error(model)
        if error <= TOLERANCE:
            return Rewriting(name, error, True)
        _restore(model, before)
        message(f"{name} would change the outputs of this model (relative error {error:.2g}) and is not applied")
        return Rewriting(name, error, False)

    @torch.no_grad()
    def error(self, model: nn.Module) -> float:
        """Return the relative error of a model's outputs to the original's, in double precision if it exceeds ``TOLERANCE``."""
        error = relative_error(self._expected, _outputs(model, self._images))
        if error <= TOLERANCE:
            return error
        try:
            if self._exact is None:
                self._exact = _in_double(self._original, self._images)
            return relative_error(self._exact, _in_double(model, self._images))
        except RuntimeError:  # a forward with a hard-coded precision cannot run in another
            return error


@torch.no_grad()
def check_captured(module: nn.Module, model: nn.Module, images: Tensor) -> None:
    """Check that ``model``, captured from ``module``, computes the same outputs on ``images`` ``(N, C, H, W)``.

    Raises:
        PmqError: the outputs differ, as the module's forward depends on its input's values or on random numbers.
    """
    error = Equivalence(module, images.to(next(module.parameters()).device)).error(model)
    if error > TOLERANCE:
        raise PmqError(
            f"the graph captured from {type(module).__name__} computes other outputs (relative error {error:.2g}); its forward "
            "must not depend on random numbers, on values of tensors, or on the number of images"
        )


def relative_error(expected: Tensor, actual: Tensor) -> float:
    """Return the largest ``|y - y0|`` of an image over the root mean square of ``|y0|``.

    ``expected`` is ``y0`` ``(N, ...)`` and ``actual`` is ``y`` ``(N, ...)``. The denominator is common to all images, as a single
    logit of one image may be close to zero. The error is infinite where ``y`` is not finite.

    >>> relative_error(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.5]]))
    0.1
    """
    expected, actual = expected.flatten(1).double(), actual.flatten(1).double()
    if not bool(actual.isfinite().all()):
        return math.inf
    size = expected.square().sum(1).mean().sqrt().clamp(min=1e-30)
    return float((actual - expected).norm(dim=1).max() / size)


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    device = next(model.parameters()).device
    return torch.cat([model(x.to(device)).cpu() for x in images.split(BATCH)])


def _in_double(model: nn.Module, images: Tensor) -> Tensor:
    device = next(model.parameters()).device
    copied = copy.deepcopy(model).double() if device.type != "mps" else copy.deepcopy(model).cpu().double()
    return _outputs(copied, images.double())


def _restore(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Restore parameters to their earlier values and remove those that a rewriting added."""
    for name, parameter in list(model.named_parameters()):
        if name in before:
            parameter.data.copy_(before[name])
        else:
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner).register_parameter(leaf, None)
