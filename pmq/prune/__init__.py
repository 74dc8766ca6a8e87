"""Structured pruning: what can be removed, what matters, a plan, and recovery without training."""

import sys

from pmq.core.verbs import VerbModule
from pmq.prune.apply import apply_plan, plan_of
from pmq.prune.importance import IMPORTANCES
from pmq.prune.proof import provable_units, prunable_units
from pmq.prune.rank import concentrate
from pmq.prune.reconstruction import Reconstruction
from pmq.prune.recover import recover
from pmq.prune.select import STRUCTURES, select
from pmq.prune.units import Unit, find_units

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

sys.modules[__name__].__class__ = VerbModule
