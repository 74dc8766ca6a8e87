"""Structured pruning: what can be removed, what matters, a plan, and recovery without training."""

from pmq.pruning.apply import apply_plan, plan_of
from pmq.pruning.importance import IMPORTANCES
from pmq.pruning.proof import provable_units, prunable_units
from pmq.pruning.rank import concentrate
from pmq.pruning.reconstruction import Reconstruction
from pmq.pruning.recover import recover
from pmq.pruning.select import STRUCTURES, select
from pmq.pruning.units import Unit, find_units

__all__ = [
    "IMPORTANCES",
    "STRUCTURES",
    "Reconstruction",
    "Unit",
    "apply_plan",
    "concentrate",
    "find_units",
    "plan_of",
    "provable_units",
    "prunable_units",
    "recover",
    "select",
]
