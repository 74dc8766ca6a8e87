"""Accuracy of allocations by simulation."""

import sys

from pmq.core.verbs import VerbModule
from pmq.evaluate.accuracy import Accuracy
from pmq.evaluate.evaluation import Judge, Metrics, evaluate_models

__all__ = ["Accuracy", "Judge", "Metrics", "evaluate_models"]

sys.modules[__name__].__class__ = VerbModule
