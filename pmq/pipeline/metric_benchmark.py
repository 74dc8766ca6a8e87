"""Benchmark of sensitivity metrics on the same allocations, images and budgets."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from pmq.core import Assignment, Limits
from pmq.core.progress import track
from pmq.core.rundir import RunDir
from pmq.core.spec import read_bits
from pmq.evaluation import Evaluator
from pmq.evaluation.executor import LocalExecutor
from pmq.metrics import METRICS, Probe, SensitivityTable
from pmq.optimize import ExactSolver, Space, Tables, nsga2, within
from pmq.optimize.candidates import uniform_within
from pmq.optimize.exact import trust_region
from pmq.optimize.greedy import greedy
from pmq.optimize.ranking import rank_correlation
from pmq.optimize.sampling import random_at_budget, random_genomes
from pmq.optimize.tables import Floats, Genomes
from pmq.pipeline.measure import measure
from pmq.pipeline.search.candidate_pool import CandidatePool
from pmq.pipeline.search.explore import compared_candidates
from pmq.pipeline.search.loop import Rounds
from pmq.pipeline.search.state import SearchState
from pmq.pipeline.search.stopping import StoppingCriteria

#: the metric that searches use, with its rounds
ROUNDS_OF = "fisher_shrunk"
#: random allocations at the budget, of which the baseline ``random`` takes the one that simulates best
RANDOM = 16


class MetricBenchmark:
    """Compares metrics with the simulated errors of random allocations, and simulates each metric's optima.

    Results accumulate in ``rows``, ``allocations`` and ``optima``.
    """

    def __init__(
        self,
        space: Space,
        limits: dict[str, Limits],
        one_budget: tuple[str, Limits],
        probe: Probe,
        evaluator: Evaluator,
        truth: Evaluator,
        run: RunDir | None,
    ) -> None:
        self.space, self.limits, (self.one_budget, self._one_limits) = space, limits, one_budget
        self.probe, self.evaluator, self._run = probe, evaluator, run
        executor = LocalExecutor(SearchState(truth.simulator, probe, truth))
        self._simulated = CandidatePool(executor, truth, space, run, StoppingCriteria())
        self.error = probe.task.error_name
        self.default = f"{ROUNDS_OF}+rounds"
        self.rows: list[dict[str, Any]] = []
        self.optima: dict[tuple[str, str], Assignment] = {}
        self._costs = Tables.build(space, SensitivityTable.zeros(space.choices))
        self._tables: dict[str, Tables] = {}
        self._probes: dict[str, Probe] = {}
        self._forward_s = _forward_seconds(probe)

    def draw(self, count: int, seed: int) -> None:
        """Draw random allocations over all budgets and at one budget, and simulate them."""
        rng = np.random.default_rng(seed)
        at_one = random_at_budget(self._costs, self._one_limits, count, rng)
        self._genomes: Genomes = np.concatenate([random_genomes(self._costs, count, rng), at_one])
        self._one = np.arange(len(self._genomes)) >= count
        metrics = [self._truth(self.space.assignment(g)) for g in track(self._genomes, "simulating random allocations")]
        costs = self._costs.evaluate(self._genomes)
        self.allocations = pd.DataFrame(metrics)[[self.error, "agreement"]]
        self.allocations["size_bytes"], self.allocations["bit_ops"] = costs[:, 1], costs[:, 2]
        self.allocations["set"] = np.where(self._one, self.one_budget, "all budgets")

    def enter(self, name: str) -> None:
        """Measure a metric's table, its rank correlation with simulation, and its optima."""
        metric, _, around = name.partition("@")
        base = self.space.uniform(*read_bits(around)) if around else {}
        if around not in self._probes:
            self._probes[around] = replace(self.probe, base=base)
        table = measure(self._probes[around], self.space.choices, metric, self._run, f"{name}/")
        if self._run is not None:  # a resumed run takes known entries from the journal, in no time
            before = self._run.recall(f"seconds/{name}")
            if before is None:
                self._run.record(f"seconds/{name}", {"seconds": table.seconds})
            else:
                table.seconds = before["seconds"]
        self._tables[name] = tables = Tables.build(self.space, table)
        start = self.space.genome(base) if base and METRICS[metric].relative else None
        near = None if start is None else trust_region(start)
        optima = {b: _optimum(tables, self.limits[b], near) for b in self.limits}
        self._add(name, tables, table.seconds, {b: self.space.assignment(g) for b, g in optima.items() if g is not None})

    def enter_rounds(self) -> None:
        """Add the search by rounds at every budget, as ``pmq search`` runs it."""
        optima, seconds, tables = {}, [], self._costs
        probe = Probe(self.probe.simulator, self.probe.images, self.probe.task, {}, self.probe.batch_size, self.probe.seed)
        executor = LocalExecutor(SearchState(probe.simulator, probe, self.evaluator))
        for budget, limits in [*self.limits.items(), (None, self._one_limits)]:
            start = time.perf_counter()
            pool = CandidatePool(executor, self.evaluator, self.space, None, StoppingCriteria())
            rounds = Rounds(probe, ROUNDS_OF, self.space, limits, pool, None)
            rounds.run(compared_candidates(self.space, rounds.tables, limits))
            if budget is None:
                tables = rounds.tables
                continue
            seconds.append(time.perf_counter() - start)
            known = {g: float(t.total.error) for g, t in pool.complete().items()}
            genomes = np.array(list(known))
            costs = rounds.tables.evaluate(genomes)
            promise = np.where(within(limits, costs), costs[:, 0] * np.array(list(known.values())), np.inf)
            optima[budget] = self.space.assignment(genomes[promise.argmin()])
        self._add(self.default, tables, float(np.mean(seconds)), optima)

    def enter_baselines(self, seed: int) -> None:
        """Add uniform bits, greedy allocation by signal-to-noise ratio, and the best of some random allocations."""
        rng = np.random.default_rng(seed + 1)
        rows: dict[str, dict[str, Assignment]] = {"uniform": {}, "random": {}}
        for budget, limits in self.limits.items():
            uniform = uniform_within(self.space, limits)
            if uniform is not None:
                rows["uniform"][budget] = uniform
            drawn = random_at_budget(self._costs, limits, RANDOM, rng)
            errors = [self.evaluator.evaluate(self.space.assignment(g)).mean_error for g in track(drawn, "random search")]
            rows["random"][budget] = self.space.assignment(drawn[int(np.argmin(errors))])
        if "sqnr" not in self._tables:
            self._tables["sqnr"] = Tables.build(self.space, measure(self.probe, self.space.choices, "sqnr", self._run, "sqnr/"))
        tables = self._tables["sqnr"]
        lowered = {b: greedy(tables, limits) for b, limits in self.limits.items()}
        rows["greedy_sqnr"] = {b: self.space.assignment(g) for b, g in lowered.items() if g is not None}
        for name, optima in rows.items():
            self._add(name, None, float("nan"), optima)

    def _add(self, name: str, tables: Tables | None, seconds: float, optima: dict[str, Assignment]) -> None:
        row: dict[str, Any] = {"metric": name, "seconds": seconds, "passes": seconds / self._forward_s}
        if tables is not None:
            predicted = tables.evaluate(self._genomes)[:, 0]
            self.allocations[name] = predicted
            row |= self._taus("tau", predicted, ~self._one) | self._taus("tau_one_budget", predicted, self._one)
        for budget, assignment in optima.items():
            self.optima[name, budget] = assignment
            metrics = self._truth(assignment)
            row |= {f"{self.error} {budget}": metrics[self.error], f"agreement {budget}": metrics["agreement"]}
        self.rows.append(row)

    def _taus(self, name: str, predicted: Floats, subset: Any) -> dict[str, float]:
        ranking = rank_correlation(predicted[subset], self.allocations[self.error].to_numpy()[subset])
        if ranking is None:
            return {}
        return {name: ranking.tau, f"{name}_low": ranking.low, f"{name}_high": ranking.high}

    def _truth(self, assignment: Assignment) -> dict[str, float | None]:
        name = "truth/" + ",".join(choice.label for choice in assignment.values())
        accuracy = self._simulated.accuracy_of(assignment, name)
        assert accuracy is not None  # errors propagate where this process does the work
        return accuracy.compute()


def _optimum(tables: Tables, limits: Limits, near: tuple[Genomes, int] | None) -> Genomes | None:
    """Return the best genome by a table: exact where errors are additive, otherwise evolved from the exact solution."""
    exact = ExactSolver(tables).solve(limits, near=near)
    if tables.predict is None or exact is None:
        return exact
    seen = nsga2(tables, limits, exact[None])
    costs = tables.evaluate(seen)
    best: Genomes = seen[np.where(within(limits, costs), costs[:, 0], np.inf).argmin()]
    return best


def _forward_seconds(probe: Probe) -> float:
    """Return the seconds of one FP32 forward pass over the images that metrics measure on."""
    probe.simulator.apply({})
    times = []
    for _ in range(3):
        start = time.perf_counter()
        probe.outputs()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
