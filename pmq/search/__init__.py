"""The search: space, tables, exact solver, NSGA-II, front. NumPy only; torch is never imported here."""

import sys

from pmq.core.verbs import VerbModule
from pmq.search.exact import ExactSolver
from pmq.search.front import non_dominated
from pmq.search.joint import solver_for
from pmq.search.nsga2 import nsga2
from pmq.search.space import Space
from pmq.search.space_file import SpaceFile, read_space
from pmq.search.tables import Tables, UniformCosts, within

__all__ = [
    "ExactSolver",
    "Space",
    "SpaceFile",
    "Tables",
    "UniformCosts",
    "non_dominated",
    "nsga2",
    "read_space",
    "solver_for",
    "within",
]

sys.modules[__name__].__class__ = VerbModule
