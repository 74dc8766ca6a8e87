"""Sensitivity metrics, one a file, all filling the same table.

The table is plain data, which the search reads without torch; the metrics, which need it, are loaded when asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pmq.metrics.table import SensitivityTable

if TYPE_CHECKING:
    from pmq.metrics.base import Metric, Probe
    from pmq.metrics.registry import METRICS

_HOMES = {"METRICS": "registry", "Metric": "base", "Probe": "base"}

__all__ = ["METRICS", "Metric", "Probe", "SensitivityTable"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"pmq.metrics.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pmq.metrics' has no attribute {name!r}")
