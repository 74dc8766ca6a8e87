"""Accuracy of allocations by simulation."""

from pmq.evaluation.accuracy import Accuracy
from pmq.evaluation.evaluation import Judge, Metrics, evaluate_models

__all__ = ["Accuracy", "Judge", "Metrics", "evaluate_models"]
