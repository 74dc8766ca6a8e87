"""Structured pruning: prunable units, importances of channels, pruning plans, and reconstruction without training."""

from pmq.pruning.apply import apply_plan, plan_of
from pmq.pruning.importance import IMPORTANCES
from pmq.pruning.least_squares import least_squares_reconstruction
from pmq.pruning.low_rank import rotate_to_principal_axes
from pmq.pruning.proof import provable_units, prunable_units
from pmq.pruning.reconstruction import Reconstruction
from pmq.pruning.select import STRUCTURES, select
from pmq.pruning.units import Unit, find_units

__all__ = [
    "IMPORTANCES",
    "STRUCTURES",
    "Reconstruction",
    "Unit",
    "apply_plan",
    "find_units",
    "least_squares_reconstruction",
    "plan_of",
    "provable_units",
    "prunable_units",
    "rotate_to_principal_axes",
    "select",
]
