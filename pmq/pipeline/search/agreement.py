"""The reverse question: how little a model can cost that still decides as FP32 does, so many times of a hundred."""

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

#: rungs of a ladder, from its foot, at which a search begins to measure: most answers lie near
BEGIN = 0.55
#: rungs around the one that simulation proposes whose candidates are simulated as well; below them the recipe is not tried
BELOW, ABOVE = 8, 3


@dataclass
class Goal:
    """A share of decisions that must be FP32's, and the limits among which the least is sought.

    Attributes:
        agreement: percent.
        rungs: limits, rising.
        at: the rung that simulation proposes.
    """

    agreement: float
    rungs: list[Limits]
    at: int = 0

    @classmethod
    def of(cls, budget: Budget, space: Space, task: Task, patches: str | None, prune: bool) -> Goal:
        """Take it from a budget.

        Raises:
            PmqError: the model decides nothing, or something else is searched that moves its costs.
        """
        assert budget.agreement is not None
        if not task.decides:
            raise PmqError(f"budget {budget.text!r} asks for decisions, and task {task.name!r} has none; give bytes or bits")
        if patches is not None or prune:
            raise PmqError(f"budget {budget.text!r} is for bits alone; search without --patches and --prune")
        return cls(budget.agreement, ladder(budget, space))

    @property
    def guess(self) -> Limits:
        """Where to measure first."""
        return self.rungs[min(int(BEGIN * len(self.rungs)), len(self.rungs) - 1)]

    def approach(self, going: Rounds) -> Limits:
        """Find, by halving, the lowest rung whose best allocation by the tables is simulated to be good enough.

        Candidates of the rungs around it are simulated as well, for what the whole recipe makes of them may be better.
        """
        solver, pool = solver_for(going.tables), going.pool
        low, high = 0, len(self.rungs) - 1
        while low < high:
            middle = (low + high) // 2
            candidates = self._optimum(going.tables, solver, middle)
            pool.simulate(candidates)
            agreed = pool.simulated[candidates[0].genome].total.compute()["agreement"] if candidates else None
            if agreed is not None and agreed >= self.agreement:
                high = middle
            else:
                low = middle + 1
        self.at = low
        for rung in range(max(low - BELOW, 0), min(low + ABOVE + 1, len(self.rungs))):
            pool.simulate(self._optimum(going.tables, solver, rung))
        pool.successive_halving(exact_candidates(going.tables, solver, self.rungs[low]))
        return self.rungs[low]

    def _optimum(self, tables: Tables, solver: Solver, rung: int) -> list[Candidate]:
        genome = solver.solve(self.rungs[rung])
        return [] if genome is None else [Candidate(tuple(map(int, genome)), f"exact at rung {rung} of {len(self.rungs)}")]

    def reached(self, finished_within: Callable[[Limits, bool], Finished]) -> tuple[Limits, Finished]:
        """Find the lowest rung on which the whole recipe is good enough, as the judge's images tell; give what came of it.

        Raises:
            PmqError: none is.
        """
        at, found = self.at, dict[int, Finished]()

        def good(rung: int) -> bool:
            found[rung] = finished_within(self.rungs[rung], True)
            agreed = found[rung][3]["agreement"] or 0.0
            message(f"agreement {agreed:.1f} % within {written(self.rungs[rung])}")
            return agreed >= self.agreement

        lowest, top, step = max(at - BELOW, 0), len(self.rungs) - 1, 1
        if good(at):
            bad = lowest - 1  # the whole recipe is better than what was simulated: how far down is sought by halving
            while at - bad > 1:
                middle = max((at + bad) // 2, lowest)
                at, bad = (middle, bad) if good(middle) else (at, middle)
        else:
            while at < top and not good(min(at + step, top)):
                at, step = min(at + step, top), 2 * step
            at = min(at + step, top)
        if (found[at][3]["agreement"] or 0.0) < self.agreement:
            best = max((f[3]["agreement"] or 0.0 for f in found.values()), default=0.0)
            raise PmqError(
                f"no allocation was found that agrees with FP32 on {self.agreement:g} % of decisions; "
                f"the best one agrees on {best:.1f} %; ask for less, or give more --calib-images"
            )
        whole = finished_within(self.rungs[at], False)  # of several, chosen by their error
        return self.rungs[at], whole if (whole[3]["agreement"] or 0.0) >= self.agreement else found[at]
