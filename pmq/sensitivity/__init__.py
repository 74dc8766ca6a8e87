"""Sensitivity metrics, one a file. A new one: a subclass of ``Metric`` with ``@register``, imported here."""

import sys

from pmq.core.verbs import VerbModule
from pmq.sensitivity.base import METRICS, Metric, Probe, metric
from pmq.sensitivity.fisher import EmpiricalFisher
from pmq.sensitivity.measured import OneAtATime
from pmq.sensitivity.table import SensitivityTable

__all__ = ["METRICS", "EmpiricalFisher", "Metric", "OneAtATime", "Probe", "SensitivityTable", "metric"]

sys.modules[__name__].__class__ = VerbModule
