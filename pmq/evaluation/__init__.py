"""Accuracy of allocations, evaluated by simulation."""

from pmq.evaluation.accuracy import Accuracy
from pmq.evaluation.evaluator import Evaluator, Metrics, evaluate_models

__all__ = ["Accuracy", "Evaluator", "Metrics", "evaluate_models"]
