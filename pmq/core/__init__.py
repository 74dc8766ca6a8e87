"""The vocabulary: bits, choices, components, budgets, allocations, run directories. No torch here."""

from pmq.core.allocation import Allocation, CalibrationInfo, ModelInfo
from pmq.core.bits import FP32, BitWidth
from pmq.core.budget import Budget, Limits
from pmq.core.choice import FLOAT, Assignment, Choice
from pmq.core.component import Component, Inventory, Operator
from pmq.core.errors import PmqError

__all__ = [
    "FLOAT",
    "FP32",
    "Allocation",
    "Assignment",
    "BitWidth",
    "Budget",
    "CalibrationInfo",
    "Choice",
    "Component",
    "Inventory",
    "Limits",
    "ModelInfo",
    "Operator",
    "PmqError",
]
