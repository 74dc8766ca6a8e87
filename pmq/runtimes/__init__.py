"""Runtimes behind one interface, one per module; torch and the runtimes' packages are imported only when needed."""

from __future__ import annotations

from pmq.runtimes.base import Target
from pmq.runtimes.registry import TARGETS, target_of
from pmq.runtimes.session import Session

__all__ = ["TARGETS", "Session", "Target", "target_of"]
