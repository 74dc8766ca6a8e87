"""Base class of range estimators, which compute from samples the range that the levels cover."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from pmq.core.errors import PmqError
from pmq.core.registry import Registry
from pmq.quant.ranges import Fit, Range


class RangeEstimator(ABC):
    """Estimator of a range for each row of samples.

    ``estimate(x, fit, symmetric, weight)`` returns ``low`` and ``high`` of shape ``(R, 1)`` for samples ``(R, K)``, within
    their minimum and maximum. With ``symmetric``, only the larger magnitude of the two is used; ``weight`` ``(R, K)`` weights
    the errors of the samples. Subclasses implement :meth:`_estimate`.
    """

    name: ClassVar[str]

    def estimate(self, x: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None = None) -> Range:
        """Estimate the range of each row of samples ``(R, K)``, which must be finite.

        Raises:
            PmqError: a sample is NaN or infinite.
        """
        low, high = self.check(x)
        return self._estimate(x, low, high, fit, symmetric, weight)

    def check(self, x: Tensor) -> Range:
        """Return the minimum and maximum of each row; raise as :meth:`estimate` does."""
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise PmqError("the calibration values are not all finite; check the checkpoint and the images")
        return low, high

    @abstractmethod
    def _estimate(self, x: Tensor, low: Tensor, high: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None) -> Range: ...


ESTIMATORS: Registry[RangeEstimator] = Registry("range estimator")


def register(cls: type[RangeEstimator]) -> type[RangeEstimator]:
    """Register an estimator by its name."""
    ESTIMATORS.add(cls.name, cls())
    return cls
