"""Runtimes, one a file, all behind one interface; torch and the runtimes' packages are loaded when they are needed."""

from __future__ import annotations

import sys

from pmq.core.verbs import VerbModule
from pmq.deploy.base import Target
from pmq.deploy.registry import TARGETS, target_of
from pmq.deploy.session import Session

__all__ = ["TARGETS", "Session", "Target", "target_of"]

sys.modules[__name__].__class__ = VerbModule
