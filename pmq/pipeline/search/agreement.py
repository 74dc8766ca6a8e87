"""Budgets of agreement: the least cost at which the model still decides as FP32 does on a given share of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pmq.core import Budget, Limits, PmqError
from pmq.core.progress import message
from pmq.core.task import Task
from pmq.optimize import Space, Tables, solver_for
from pmq.optimize.candidates import Candidate, exact_candidates
from pmq.optimize.joint import Solver
from pmq.pipeline.search.budget import ladder, written
from pmq.pipeline.search.finalists import Finished
from pmq.pipeline.search.loop import Rounds

#: share of the ladder's height at which a search begins to measure; most solutions are near it
BEGIN = 0.55
#: rungs below and above the one that simulation proposes whose candidates are simulated too; the recipe is not tried below
BELOW, ABOVE = 8, 3


@dataclass
class Goal:
    """A required agreement with FP32, and the rising cost limits among which the lowest sufficient one is sought.

    Attributes:
        agreement: required agreement in percent.
        rungs: cost limits in rising order.
        at: index of the rung that simulation proposes.
    """

    agreement: float
    rungs: list[Limits]
    at: int = 0

    @classmethod
    def of(cls, budget: Budget, space: Space, task: Task, patches: str | None, prune: bool) -> Goal:
        """Build the goal of a budget.

        Raises:
            PmqError: the model makes no decisions, or patches or widths are searched too, which would change the costs.
        """
        assert budget.agreement is not None
        if not task.decides:
            raise PmqError(
                f"budget {budget.text!r} is in decisions, but task {task.name!r} has none; give a budget in bytes or bits"
            )
        if patches is not None or prune:
            raise PmqError(f"budget {budget.text!r} is for bits alone; search without `patches` and `prune`")
        return cls(budget.agreement, ladder(budget, space))

    @property
    def guess(self) -> Limits:
        """Limits at which the search measures first."""
        return self.rungs[min(int(BEGIN * len(self.rungs)), len(self.rungs) - 1)]

    def approach(self, rounds: Rounds) -> Limits:
        """Find by bisection the lowest rung whose best allocation by the tables reaches the agreement in simulation.

        Candidates of the rungs around it are simulated too, because the whole recipe may improve them.
        """
        solver, pool = solver_for(rounds.tables), rounds.pool
        low, high = 0, len(self.rungs) - 1
        while low < high:
            middle = (low + high) // 2
            candidates = self._optimum(rounds.tables, solver, middle)
            pool.simulate(candidates)
            simulated = pool.simulated.get(candidates[0].genome) if candidates else None
            agreement = None if simulated is None else simulated.total.compute()["agreement"]
            if agreement is not None and agreement >= self.agreement:
                high = middle
            else:
                low = middle + 1
        self.at = low
        for rung in range(max(low - BELOW, 0), min(low + ABOVE + 1, len(self.rungs))):
            pool.simulate(self._optimum(rounds.tables, solver, rung))
        pool.successive_halving(exact_candidates(rounds.tables, solver, self.rungs[low]))
        return self.rungs[low]

    def _optimum(self, tables: Tables, solver: Solver, rung: int) -> list[Candidate]:
        genome = solver.solve(self.rungs[rung])
        return [] if genome is None else [Candidate(tuple(map(int, genome)), f"exact at rung {rung} of {len(self.rungs)}")]

    def reached(self, finished_within: Callable[[Limits, bool], Finished]) -> tuple[Limits, Finished]:
        """Find the lowest rung on which the whole recipe reaches the agreement; return its limits and its finalist.

        Raises:
            PmqError: no rung does.
        """
        at, finished = self.at, dict[int, Finished]()

        def good(rung: int) -> bool:
            finished[rung] = finished_within(self.rungs[rung], True)
            agreement = finished[rung][3]["agreement"] or 0.0
            message(f"agreement {agreement:.1f} % within {written(self.rungs[rung])}")
            return agreement >= self.agreement

        lowest, top, step = max(at - BELOW, 0), len(self.rungs) - 1, 1
        if good(at):
            bad = lowest - 1  # the whole recipe does better than the simulation: bisect further down
            while at - bad > 1:
                middle = max((at + bad) // 2, lowest)
                at, bad = (middle, bad) if good(middle) else (at, middle)
        else:
            while at < top and not good(min(at + step, top)):
                at, step = min(at + step, top), 2 * step
            at = min(at + step, top)
        if (finished[at][3]["agreement"] or 0.0) < self.agreement:
            best = max((f[3]["agreement"] or 0.0 for f in finished.values()), default=0.0)
            raise PmqError(
                f"no allocation was found that agrees with FP32 on {self.agreement:g} % of decisions; "
                f"the best one agrees on {best:.1f} %; ask for less, or raise `n_calibration`"
            )
        chosen = finished_within(self.rungs[at], False)  # of several finalists, the one with the least error
        return self.rungs[at], chosen if (chosen[3]["agreement"] or 0.0) >= self.agreement else finished[at]
