"""The metrics there are. A new one: a file with a subclass of ``Metric`` and ``@register``, imported here."""

from pmq.sensitivity.base import METRICS
from pmq.sensitivity.fisher import EmpiricalFisher
from pmq.sensitivity.measured import OneAtATime

__all__ = ["METRICS", "EmpiricalFisher", "OneAtATime"]
