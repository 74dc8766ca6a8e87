"""The exact optimum of the additive problem, by mixed-integer linear programming (HiGHS).

The program is relaxed first. What its solution and a good genome leave between them tells which choices can be of the
optimum at all (reduced-cost fixing); branching decides among those alone.
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

#: one in so many decisions may differ from a genome that it is trusted near
TRUSTED = 10


def trust_region(genome: Sequence[int]) -> tuple[Genomes, int]:
    """Give what :meth:`ExactSolver.solve` takes as ``near`` to stay where measurements around ``genome`` hold."""
    return np.array(genome), max(2, len(genome) // TRUSTED)


@contextmanager
def _silenced_stdout() -> Iterator[None]:
    """HiGHS prints debugging lines from C++ whatever its options say; they would end up in the middle of JSON."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 1)
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


class ExactSolver:
    """Minimises the predicted error within limits on bytes, bit operations and milliseconds.

    Args:
        tables: the search's tables.
        gap: relative gap to the proven optimum at which to stop.
        node_limit: branches to explore at most for one solution; not seconds, so that a busy machine finds the same.
    """

    def __init__(self, tables: Tables, gap: float = 1e-3, node_limit: int = 2000) -> None:
        self.tables, self._gap, self._node_limit = tables, gap, node_limit
        self._program = Program(tables)

    def solve(self, limits: Limits, error: Floats | None = None, near: tuple[Genomes, int] | None = None) -> Genomes | None:
        """Find the best genome ``(D,)`` within ``limits``; nothing if there is none.

        Args:
            limits: what may be spent.
            error: ``(D, K)`` to minimise in place of the tables' error.
            near: a trust region: a genome, and how many decisions may differ from it. What was measured around an
                allocation holds near it.
        """
        tables = self.tables if error is None else replace(self.tables, error=error)
        # The solver may overstep a limit by its tolerance, about 1e-6; then it is asked again with that much less.
        for slack in (0.0, 2e-6, 2e-5):
            genome = self._solve(tables, limits.scaled(1 - slack), near)
            if genome is None:
                return None
            if limits.allow(*self.tables.evaluate(genome[None])[0, 1:]):
                return genome
        return None

    def _solve(self, tables: Tables, limits: Limits, near: tuple[Genomes, int] | None) -> Genomes | None:
        program, objective = self._program, self._program.over_choices(tables.error)
        # Scaled so that the solver's absolute tolerances mean little against the error.
        unit = max(float(np.abs(objective).max()), 1e-30) / 1e3
        objective = objective / unit
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
            prices[index] = -worth * unit / limit
        best = good_genome(tables, prices, program.genome(relaxed.x), evaluate)
        least = np.inf if best is None else float(errors_of(best[None])[0])
        spare = least - relaxed.fun
        if best is not None and spare <= self._gap * abs(least):
            return best
        kept = program.affordable(relaxed.lower.marginals, spare * 1.01 + 1e-6)
        found = self._branch(objective, rows, right, kept)
        # One that oversteps a limit by the solver's tolerance is given as well: it is what asking for less begins with.
        return found if found is not None and float(errors_of(found[None])[0]) <= least else best

    def _branch(self, objective: Floats, rows: Floats, right: Floats, kept: NDArray[np.bool_]) -> Genomes | None:
        """The optimum among variables that are ``kept``; only choices are declared whole."""
        program = self._program
        constraints = [LinearConstraint(program.links[:, kept], program.values, program.values)]
        constraints += [LinearConstraint(rows[:, kept], -np.inf, right)] if len(rows) else []
        with _silenced_stdout():
            result = milp(
                objective[kept],
                constraints=constraints,
                integrality=np.arange(program.n)[kept] < program.n_choices,
                bounds=Bounds(0, 1),
                options={"mip_rel_gap": self._gap, "node_limit": self._node_limit},
            )
        if result.x is None:
            return None
        whole = np.zeros(program.n)
        whole[kept] = result.x
        return program.genome(whole)
