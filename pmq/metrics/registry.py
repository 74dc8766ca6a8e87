"""Registry of all metrics.

To add a metric, write a file with a subclass of ``Metric`` decorated with ``@register`` and import it here.
"""

from pmq.metrics.base import METRICS
from pmq.metrics.fisher import ElementwiseFisher, EmpiricalFisher
from pmq.metrics.gradient import FirstOrder
from pmq.metrics.hessian import HessianTrace
from pmq.metrics.measured import OneAtATime, OutputDistance
from pmq.metrics.shrunk_fisher import ShrunkFisher
from pmq.metrics.snip import ConnectionSensitivity
from pmq.metrics.sqnr import NoiseToSignal
from pmq.metrics.superposition import Superposition

__all__ = [
    "METRICS",
    "ConnectionSensitivity",
    "ElementwiseFisher",
    "EmpiricalFisher",
    "FirstOrder",
    "HessianTrace",
    "NoiseToSignal",
    "OneAtATime",
    "OutputDistance",
    "ShrunkFisher",
    "Superposition",
]
