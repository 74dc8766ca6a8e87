"""The search: space, tables, exact solver, NSGA-II and Pareto front. It uses NumPy only and never imports torch."""

from pmq.optimize.exact import ExactSolver
from pmq.optimize.front import non_dominated
from pmq.optimize.joint import solver_for
from pmq.optimize.nsga2 import nsga2
from pmq.optimize.space import Space
from pmq.optimize.space_file import SpaceFile, read_space
from pmq.optimize.tables import Tables, UniformCosts, within

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
