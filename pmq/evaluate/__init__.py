"""Accuracy of allocations by simulation."""

import sys

from pmq.core.verbs import VerbModule
from pmq.evaluate.accuracy import Accuracy
from pmq.evaluate.evaluation import Judge, Metrics, evaluate_assignments

__all__ = ["Accuracy", "Judge", "Metrics", "evaluate_assignments"]

sys.modules[__name__].__class__ = VerbModule
