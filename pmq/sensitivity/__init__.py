"""Sensitivity metrics, one a file, all filling the same table.

The table is plain data, which the search reads without torch; the metrics, which need it, are loaded when asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pmq.core.verbs import VerbModule
from pmq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from pmq.sensitivity.base import Metric, Probe
    from pmq.sensitivity.registry import METRICS

_HOMES = {"METRICS": "registry", "Metric": "base", "Probe": "base"}

__all__ = ["METRICS", "Metric", "Probe", "SensitivityTable"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"pmq.sensitivity.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pmq.sensitivity' has no attribute {name!r}")


sys.modules[__name__].__class__ = VerbModule
