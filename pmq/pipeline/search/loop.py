"""The rounds of a search: measure sensitivities around the best allocation, solve, simulate, update the tables, repeat."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from moocore import hypervolume

from pmq.core import Limits
from pmq.core.choice import Decisions
from pmq.core.errors import Interrupted
from pmq.core.progress import message
from pmq.core.rundir import RunDir
from pmq.metrics import METRICS, Probe, SensitivityTable
from pmq.optimize import Space, Tables, solver_for, within
from pmq.optimize.candidates import Candidate, exact_candidates, largest_uniform, uniform_within
from pmq.optimize.confirm import confirmed, near_optimal_choices
from pmq.optimize.exact import trust_region
from pmq.optimize.refit import posterior_update
from pmq.optimize.tables import Genomes
from pmq.pipeline.measure import measure
from pmq.pipeline.search.candidate_pool import CandidatePool

#: relative gain of error or hypervolume below which the search stops
GAIN = 0.01
#: fewest rounds
LEAST = 2
#: metric of the last round, which remeasures near-optimal choices only, and the most images it uses
CONFIRM = "measured"
CONFIRM_IMAGES = 12


@dataclass
class Round:
    """Duration and result of one round.

    Attributes:
        measuring_s, solving_s, simulating_s: seconds spent on each step.
        simulated: number of candidates simulated so far, on some images or on all.
        error: least error within the budget among the candidates simulated on all images.
        hypervolume: hypervolume of those candidates in log10(error), up to the first round's worst, and cost as a share of
            the budget.
    """

    measuring_s: float
    solving_s: float
    simulating_s: float
    simulated: int
    error: float
    hypervolume: float


class Rounds:
    """The rounds of a search, with their tables and candidates.

    Attributes:
        table: mean sensitivities of all rounds; near-optimal choices also include the last round's second metric.
        tables: the solver's tables, with the posterior update by the simulated candidates.
        history: duration and result of each round.
    """

    def __init__(
        self,
        probe: Probe,
        metric_name: str,
        space: Space,
        limits: Limits,
        pool: CandidatePool,
        run: RunDir | None,
        widths: SensitivityTable | None = None,
    ) -> None:
        self.probe, self.metric_name, self.space, self.limits = probe, metric_name, space, limits
        self.pool, self._run = pool, run
        self.table, self._widths = SensitivityTable(metric_name), widths
        self.tables: Tables = Tables.build(space, SensitivityTable.zeros(space.choices))
        self.history: list[Round] = []
        self._worst: float | None = None

    def run(self, compared: Iterable[Candidate]) -> None:
        """Run rounds until a stopping criterion is met or a round gains nothing; an interrupt ends them with the results so far.

        The candidates ``compared`` are simulated in the first round regardless of their predicted error.
        """
        compared, stopping = list(compared), self.pool.stopping
        try:
            for index in range(stopping.rounds):
                if index and stopping.over(len(self.pool.simulated)):
                    return
                last = self._has_converged() or index == stopping.rounds - 1
                self._round(index, compared if index == 0 else [], last)
                if last:
                    return
        except (KeyboardInterrupt, Interrupted):
            if not self.history:
                raise
            message("interrupted: finishing with the best so far; once more to stop at once")
            stopping.interrupted = True

    def _round(self, index: int, compared: list[Candidate], last: bool) -> None:
        start, remeasures = time.perf_counter(), METRICS[self.metric_name].remeasured_each_round
        if index == 0 or (remeasures and not last):
            self._measure(index)
        elif remeasures:
            self._confirm()
        measured = time.perf_counter()
        solver, best = solver_for(self.tables), self._best()
        candidates = exact_candidates(self.tables, solver, self.limits)
        if best is not None:  # sensitivities measured around the best allocation are valid near it
            near = solver.solve(self.limits, near=trust_region(best))
            candidates += [] if near is None else [Candidate(tuple(map(int, near)), "exact near the best")]
        solved = time.perf_counter()
        self.pool.simulate(compared)
        self.pool.successive_halving(candidates)
        if self._best() is None:  # time is over before anything within the budget was simulated
            self.pool.simulate(candidates[:1])
        self._update()
        simulated = time.perf_counter()
        least, volume = self._standing()
        times = (measured - start, solved - measured, simulated - solved)
        self.history.append(Round(*times, len(self.pool.simulated), least, volume))

    def _measure(self, index: int) -> None:
        metric = METRICS[self.metric_name]
        base = self._context() if metric.remeasured_each_round else {}
        probe = replace(self.probe, base=base, seed=self.probe.seed + index)
        table = measure(probe, self.space.choices, self.metric_name, self._run, f"round{index}/")
        if index == 0:
            self.table = table
            for name, choice, error in self._widths or ():
                self.table.put(name, choice, error)
        else:
            self.table.seconds += table.seconds
            for name, choice, error in table:
                mean = (self.table.get(name, choice) * index + error) / (index + 1)
                self.table.put(name, choice, mean)
        self._update()

    def _confirm(self) -> None:
        """Remeasure the near-optimal choices with a second metric, and correct the table by it."""
        choices = near_optimal_choices(self.space, self.tables, self.limits, self.probe.seed)
        probe = replace(self.probe, base={}, images=self.probe.images[:CONFIRM_IMAGES])
        measured = measure(probe, choices, CONFIRM, self._run, "confirm/")
        self.table = confirmed(self.table, measured, len(probe.images), self.space.inventory)
        self._update()

    def _context(self) -> Decisions:
        """Return the allocation to measure around: the best so far, or at first the largest uniform one within the budget."""
        best = self._best()
        if best is not None:
            return self.space.decided(best)
        uniform = largest_uniform(self.space, self.tables, self.limits)
        if uniform is not None:
            return self.space.decided(uniform.genome)
        return dict(uniform_within(self.space, self.limits) or {})

    def _best(self) -> tuple[int, ...] | None:
        known = {g: t.total for g, t in self.pool.complete().items() if self._inside(g)}
        return min(known, key=lambda g: float(known[g].error)) if known else None

    def _inside(self, genome: tuple[int, ...]) -> bool:
        return bool(within(self.limits, self.tables.evaluate(np.array([genome])))[0])

    def _update(self) -> None:
        self.tables = posterior_update(Tables.build(self.space, self.table), self.space, *self.pool.estimates())

    def _standing(self) -> tuple[float, float]:
        complete = self.pool.complete()
        genomes: Genomes = np.array(list(complete))
        errors = np.array([t.total.mean_error for t in complete.values()])
        costs = self.tables.evaluate(genomes)
        inside = within(self.limits, costs)
        limits = dict(self.limits.bounds)
        shares = [costs[:, 1 + i] / limits.get(i, most) for i, most in enumerate(self.tables.upper_bound())]
        points = np.stack([np.log10(np.maximum(errors, 1e-12)), np.max(shares, axis=0)], 1)
        if self._worst is None:
            self._worst = float(points[:, 0].max())
        least = float(errors[inside].min()) if inside.any() else float("nan")
        return least, float(hypervolume(points, ref=np.array([self._worst, 1.001])))

    def _has_converged(self) -> bool:
        if len(self.history) < LEAST:
            return False
        before, now = self.history[-2:]
        return not (now.error < before.error * (1 - GAIN) or now.hypervolume > before.hypervolume * (1 + GAIN))
