"""The metrics there are. A new one: a file with a subclass of ``Metric`` and ``@register``, imported here."""

from pmq.sensitivity.base import METRICS
from pmq.sensitivity.fisher import ElementwiseFisher, EmpiricalFisher
from pmq.sensitivity.gradient import FirstOrder
from pmq.sensitivity.hessian import HessianTrace
from pmq.sensitivity.measured import OneAtATime, OutputDistance
from pmq.sensitivity.shrunk import ShrunkFisher
from pmq.sensitivity.snip import ConnectionSensitivity
from pmq.sensitivity.sqnr import NoiseToSignal
from pmq.sensitivity.superposition import Superposition

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
