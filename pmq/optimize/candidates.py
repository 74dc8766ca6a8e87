"""Candidate allocations to simulate: the table's optima around the budget, and a sweep of the Pareto front."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pmq.core.budget import Limits
from pmq.core.choice import Assignment
from pmq.core.progress import track
from pmq.cost.cost_model import CostModel
from pmq.optimize.front import non_dominated
from pmq.optimize.joint import Solver
from pmq.optimize.space import Space
from pmq.optimize.tables import Floats, Genomes, Tables, within

#: powers of the errors whose sum is minimised. Errors are not exactly additive: a power above one avoids single large errors,
#: one below avoids many small ones. Which is more accurate varies, so each proposes a candidate and the simulation decides.
POWERS = (1.0, 1.25, 1.5, 0.8)
#: bit-widths of uniform allocations
BITS = range(2, 9)
#: fractions of the budget to solve for
FRACTIONS = (1.0, 0.985)


@dataclass(frozen=True)
class Candidate:
    """A genome and its origin."""

    genome: tuple[int, ...]
    source: str


def uniform_candidates(space: Space) -> dict[int, Candidate]:
    """Return the uniform allocations that the space contains, by bit-width in ascending order."""
    genomes = {bits: space.genome(space.uniform(bits, bits)) for bits in BITS}
    return {bits: Candidate(tuple(g), f"uniform w{bits}a{bits}") for bits, g in genomes.items() if g is not None}


def mode_candidates(space: Space) -> list[Candidate]:
    """Return the allocations in which all layers are in the same mode."""
    return [Candidate(tuple(genome), f"uniform {name}") for name, genome in space.uniform_modes().items()]


def largest_uniform(space: Space, tables: Tables, limits: Limits) -> Candidate | None:
    """Return the uniform allocation with the most bits that is within the limits, or None if there is none."""
    inside = [c for c in uniform_candidates(space).values() if within(limits, tables.evaluate(np.array([c.genome])))[0]]
    return inside[-1] if inside else None


def uniform_bits_within(space: Space, limits: Limits) -> int | None:
    """Return the most bits of a uniform allocation within the limits, or None if there is none.

    Where choices are those of kernels, the space contains it.
    """
    kernels = bool(space.file.modes) or space.file.operators is not None or space.latency is not None
    costs = CostModel(space.inventory, space.latency)
    for bits in reversed(BITS):
        assignment = space.uniform(bits, bits)
        if kernels and space.genome(assignment) is None:
            continue
        if limits.allow(*costs.costs(assignment).values()):
            return bits
    return None


def uniform_within(space: Space, limits: Limits) -> Assignment | None:
    """Return the uniform allocation with the bits of :func:`uniform_bits_within`, or None if there is none."""
    bits = uniform_bits_within(space, limits)
    return None if bits is None else space.uniform(bits, bits)


def exact_candidates(tables: Tables, solver: Solver, limits: Limits) -> list[Candidate]:
    """Return the optima within the limits for several powers of the error and fractions of the budget."""
    candidates = []
    jobs = [(power, fraction) for fraction in FRACTIONS for power in POWERS]
    for power, fraction in track(jobs, "solving"):
        genome = solver.solve(limits.scaled(fraction), np.maximum(tables.error, 0) ** power)
        if genome is not None:
            candidates.append(Candidate(tuple(map(int, genome)), f"exact error^{power:g} at {fraction:g} of the budget"))
    return candidates


def sweep_candidates(solver: Solver, sweep: list[tuple[str, Limits]]) -> list[Candidate]:
    """Return exact optima over a sweep of budgets, which form the Pareto front of the additive problem."""
    solutions: Iterator[tuple[str, Genomes | None]] = ((n, solver.solve(x)) for n, x in track(sweep, "solving the front"))
    return [Candidate(tuple(map(int, g)), f"exact at {name}") for name, g in solutions if g is not None]


def nearby_candidates(genomes: Genomes, costs: Floats, limits: Limits, count: int) -> list[Candidate]:
    """Return points of the archive's Pareto front within the limits, by ascending predicted error and distinct from one another.

    Args:
        genomes: ``(B, D)`` all evaluated genomes.
        costs: ``(B, 3)`` their errors and costs.
        limits: the budget.
        count: maximum number of candidates.
    """
    inside = np.flatnonzero(within(limits, costs))
    inside = inside[non_dominated(costs[inside])]
    chosen: list[int] = []
    for i in inside[np.argsort(costs[inside, 0], kind="stable")]:
        if all((genomes[i] != genomes[j]).sum() >= max(2, genomes.shape[1] // 20) for j in chosen):
            chosen.append(int(i))
        if len(chosen) == count:
            break
    return [Candidate(tuple(map(int, genomes[i])), "nsga2") for i in chosen]
