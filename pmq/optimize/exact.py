"""Exact optimum of the additive problem by mixed-integer linear programming (HiGHS).

The linear relaxation is solved first. The gap between its optimum and a good genome determines which choices an optimum can
contain at all (reduced-cost fixing); branching decides among those alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from pmq.core.budget import Limits
from pmq.optimize.incumbent import good_genome
from pmq.optimize.program import Program
from pmq.optimize.tables import Floats, Genomes, Tables, within

#: one in this many decisions may differ from the genome of a trust region
TRUSTED = 10


def trust_region(genome: Sequence[int]) -> tuple[Genomes, int]:
    """Return the ``near`` argument of :meth:`ExactSolver.solve` within which measurements around ``genome`` hold."""
    return np.array(genome), max(2, len(genome) // TRUSTED)


@contextmanager
def _silenced_stdout() -> Iterator[None]:
    """Silence HiGHS, whose C++ code prints debugging lines despite its options; they would end up inside JSON output."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with Path(os.devnull).open("w") as null:
            os.dup2(null.fileno(), 1)
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


class ExactSolver:
    """Minimises the predicted error within limits on bytes, bit operations and milliseconds.

    Args:
        tables: the search's tables.
        gap: relative gap to the proven optimum at which to stop.
        node_limit: maximum number of branches to explore per solution; a count instead of seconds, so that a busy machine
            finds the same solution.
    """

    def __init__(self, tables: Tables, gap: float = 1e-3, node_limit: int = 2000) -> None:
        self.tables, self._gap, self._node_limit = tables, gap, node_limit
        self._program = Program(tables)

    def solve(self, limits: Limits, error: Floats | None = None, near: tuple[Genomes, int] | None = None) -> Genomes | None:
        """Find the best genome ``(D,)`` within ``limits``, or None if there is none.

        Args:
            limits: upper limits of the costs.
            error: ``(D, K)`` to minimise in place of the tables' error.
            near: a trust region: a genome, and the maximum number of decisions that may differ from it, since measurements
                around an allocation hold only near it.
        """
        tables = self.tables if error is None else replace(self.tables, error=error)
        # The solver may exceed a limit by its tolerance, about 1e-6; then it solves again with limits lowered by that much.
        for slack in (0.0, 2e-6, 2e-5):
            genome = self._solve(tables, limits.scaled(1 - slack), near)
            if genome is None:
                return None
            if limits.allow(*self.tables.evaluate(genome[None])[0, 1:]):
                return genome
        return None

    def _solve(self, tables: Tables, limits: Limits, near: tuple[Genomes, int] | None) -> Genomes | None:
        program, objective = self._program, self._program.over_choices(tables.error)
        # Scaled so that the solver's absolute tolerances are negligible relative to the error.
        scale = max(float(np.abs(objective).max()), 1e-30) / 1e3
        objective = objective / scale
        rows, right = program.rows(limits, near)
        with _silenced_stdout():
            relaxed = linprog(objective, rows, right, program.links, program.values, (0, None), "highs-ds")
        if relaxed.x is None:
            return None

        def errors_of(genomes: Genomes) -> Floats:
            return np.asarray(objective[program.first[:-1] + genomes].sum(1))

        def evaluate(genomes: Genomes) -> Floats:
            allowed = within(limits, tables.evaluate(genomes))
            if near is not None:
                allowed &= (genomes != near[0]).sum(1) <= near[1]
            return np.where(allowed, errors_of(genomes), np.inf)

        prices = np.zeros(len(tables.cost_names))
        for (index, limit), worth in zip(limits.bounds, relaxed.ineqlin.marginals, strict=False):
            prices[index] = -worth * scale / limit
        best = good_genome(tables, prices, program.genome(relaxed.x), evaluate)
        least = np.inf if best is None else float(errors_of(best[None])[0])
        spare = least - relaxed.fun
        if best is not None and spare <= self._gap * abs(least):
            return best
        free = program.affordable(relaxed.lower.marginals, spare * 1.01 + 1e-6)
        solution = self._branch(objective, rows, right, free)
        # A solution that exceeds a limit by the solver's tolerance is returned too: `solve` then retries with lower limits.
        return solution if solution is not None and float(errors_of(solution[None])[0]) <= least else best

    def _branch(self, objective: Floats, rows: Floats, right: Floats, free: NDArray[np.bool_]) -> Genomes | None:
        """Return the optimum among the variables marked ``free``; only variables of choices are declared integers."""
        program = self._program
        constraints = [LinearConstraint(program.links[:, free], program.values, program.values)]
        constraints += [LinearConstraint(rows[:, free], -np.inf, right)] if len(rows) else []
        with _silenced_stdout():
            result = milp(
                objective[free],
                constraints=constraints,
                integrality=np.arange(program.n)[free] < program.n_choices,
                bounds=Bounds(0, 1),
                options={"mip_rel_gap": self._gap, "node_limit": self._node_limit},
            )
        if result.x is None:
            return None
        solution = np.zeros(program.n)
        solution[free] = result.x
        return program.genome(solution)
