"""Range estimators, one per file. To add one, write a subclass of ``RangeEstimator`` with ``@register`` and import it here."""

from pmq.quant.estimators.base import ESTIMATORS, RangeEstimator
from pmq.quant.estimators.minmax import MinMax
from pmq.quant.estimators.mse import FisherWeighted, MeanSquaredError
from pmq.quant.estimators.percentile import Percentile

__all__ = ["ESTIMATORS", "FisherWeighted", "MeanSquaredError", "MinMax", "Percentile", "RangeEstimator"]
