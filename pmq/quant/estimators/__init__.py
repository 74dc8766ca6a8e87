"""Range estimators, one a file. A new one: a subclass of ``RangeEstimator`` with ``@register``, imported here."""

from pmq.quant.estimators.base import ESTIMATORS, RangeEstimator
from pmq.quant.estimators.minmax import MinMax
from pmq.quant.estimators.mse import FisherWeighted, MeanSquaredError
from pmq.quant.estimators.percentile import Percentile

__all__ = ["ESTIMATORS", "FisherWeighted", "MeanSquaredError", "MinMax", "Percentile", "RangeEstimator"]
