"""Sensitivity metrics, one per file, which all fill the same kind of table.

The table is plain data that the search reads without torch. The metrics need torch and are imported on first access.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pmq.metrics.sensitivity_table import SensitivityTable

if TYPE_CHECKING:
    from pmq.metrics.base import Metric, Probe
    from pmq.metrics.registry import METRICS

_MODULES = {"METRICS": "registry", "Metric": "base", "Probe": "base"}

__all__ = ["METRICS", "Metric", "Probe", "SensitivityTable"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"pmq.metrics.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'pmq.metrics' has no attribute {name!r}")
