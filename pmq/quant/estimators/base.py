"""What a range estimator is: samples in, the range to spread the levels over out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from pmq.core.errors import PmqError
from pmq.core.registry import Registry
from pmq.quant.ranges import Fit, Range


class RangeEstimator(ABC):
    """Estimates a range for each row of samples.

    ``estimate(x, fit, symmetric)`` takes samples ``(R, K)`` and gives ``low`` and ``high`` of shape ``(R, 1)``, within
    the samples' minimum and maximum; ``symmetric`` says that only the larger of the two will count, ``weight`` ``(R, K)``
    how much an error of each sample matters. Subclasses write :meth:`_estimate`.
    """

    name: ClassVar[str]

    def estimate(self, x: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None = None) -> Range:
        """Estimate ranges; rows need finite samples.

        Raises:
            PmqError: a sample is NaN or infinite.
        """
        low, high = self.check(x)
        return self._estimate(x, low, high, fit, symmetric, weight)

    def check(self, x: Tensor) -> Range:
        """Give the ends of each row; raise as :meth:`estimate` does."""
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise PmqError("the calibration values are not all finite: check the checkpoint and the images")
        return low, high

    @abstractmethod
    def _estimate(self, x: Tensor, low: Tensor, high: Tensor, fit: Fit, symmetric: bool, weight: Tensor | None) -> Range: ...


ESTIMATORS: Registry[RangeEstimator] = Registry("range estimator")


def register(cls: type[RangeEstimator]) -> type[RangeEstimator]:
    """Make an estimator known by its name."""
    ESTIMATORS.add(cls.name, cls())
    return cls
