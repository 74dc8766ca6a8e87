"""How far metrics can be trusted: how they rank allocations, and what they call optimal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from pmq.api.allocate import planned
from pmq.api.effort import Effort
from pmq.api.evaluate import read_bits
from pmq.api.points import compared_candidates
from pmq.api.rounds import Rounds
from pmq.api.search import resolve_budget
from pmq.api.sensitivity import check_quantizers, measure
from pmq.api.subject import Subject, gather_images
from pmq.api.trials import Trials, judged
from pmq.core import Assignment, Budget, Limits, PmqError
from pmq.core.files import write_csv
from pmq.core.progress import track
from pmq.core.recipe import find_recipe
from pmq.core.rundir import RunDir
from pmq.evaluate import Judge
from pmq.quant import images_sha256, prepare
from pmq.search import ExactSolver, Space, SpaceFile, Tables, nsga2, read_space, within
from pmq.search.candidates import largest_uniform
from pmq.search.exact import trust_region
from pmq.search.greedy import greedy
from pmq.search.ranking import rank_correlation
from pmq.search.sampling import random_at_budget, random_genomes
from pmq.search.tables import Floats, Genomes
from pmq.sensitivity import METRICS, Probe, SensitivityTable

#: metrics and the allocation they measure around, where that is not FP32
DEFAULT = (
    *("fisher_shrunk", "fisher_shrunk@w4a4", "fisher", "fisher_elementwise", "gradient@w4a4", "hawq", "snip", "sqnr"),
    *("measured", "l2", "superposition"),
)
#: the metric that searches use, with its rounds
ROUNDS_OF = "fisher_shrunk"
#: random allocations at the budget, of which the baseline ``random`` takes the one that simulates best
RANDOM = 16


@dataclass
class Ranks:
    """What ``rank`` found.

    Attributes:
        summary: a row for each metric: ``tau`` with its interval over all budgets, the same at one budget, ``seconds``,
            ``passes`` (those in forward passes of FP32 over the same images), and for each budget ``kl`` and
            ``agreement`` (percent) of its own optimum, such as ``kl 4bit``; rows of baselines have optima alone.
        allocations: a row for each random allocation: costs, ``kl``, ``agreement`` and what each metric predicts.
        default: row of the metric that searches use, with its rounds.
    """

    summary: pd.DataFrame
    allocations: pd.DataFrame
    default: str


def rank(
    model: nn.Module | str | None,
    images: Tensor | Iterable[Any],
    metrics: Sequence[str] = DEFAULT,
    *,
    budgets: Sequence[str] = ("4bit", "5bit", "6bit"),
    one_budget: str = "4.5bit",
    count: int = 100,
    space: str | SpaceFile = "default",
    recipe: str = "best",
    calib_images: int = 32,
    probe_images: int = 48,
    held_out: int = 128,
    truth_images: int = 256,
    batch_size: int = 32,
    seed: int = 0,
    device: str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
) -> Ranks:
    """Compare metrics with the truth, on images that none of them has seen.

    Args:
        model: see :func:`pmq.search`.
        images: the first ``calib_images`` calibrate, the next ``probe_images`` are what metrics look at, ``held_out`` judge
            candidates in rounds, and ``truth_images`` tell the truth.
        metrics: names; ``fisher@w4a4`` measures around W4A4, without it is around FP32.
        budgets: at which each metric's own optimum is simulated.
        one_budget: at which random allocations are compared that all cost the same.
        count: random allocations over all budgets, and as many at one.
        space: see :func:`pmq.search`.
        recipe: see :func:`pmq.search`.
        calib_images: see ``images``.
        probe_images: see ``images``.
        held_out: see ``images``.
        truth_images: see ``images``.
        batch_size: images at once.
        seed: of every random draw.
        device: where to run.
        out: folder to write figures' data and allocations to, and to resume from.
        resume: go on with a killed run.

    Raises:
        PmqError: bad input, told in one line.

    Example:
        >>> import torch, pmq
        >>> found = pmq.rank(None, torch.randn(24, 1, 28, 28), ("fisher",), budgets=("4bit",), count=6,
        ...     calib_images=4, probe_images=4, held_out=8, truth_images=8)
        >>> bool(found.summary.loc["fisher", "seconds"] > 0)
        True
    """
    for name in metrics:  # wrong names are told before any work
        metric, _, around = name.partition("@")
        METRICS[metric]
        if around:
            read_bits(around)
    how = find_recipe(recipe)
    needed = [calib_images, probe_images, held_out, truth_images]
    gathered = gather_images(images, sum(needed))
    if len(gathered) < sum(needed):
        raise PmqError(f"{len(gathered)} images are fewer than the {sum(needed)} asked for; lower --truth-images or --held-out")
    calib, probed, judged, unseen = gathered.split(needed)
    subject = Subject.of(model, device, gathered[:1])
    laid_out = Space(space if isinstance(space, SpaceFile) else read_space(space), subject.inventory, how.estimator)
    check_quantizers(laid_out)
    limits = {text: resolve_budget(Budget.parse(text), laid_out) for text in (*budgets, one_budget)}
    run = None
    if out is not None:
        settings: dict[str, Any] = {"model": subject.info.model_dump(), "space": laid_out.file.model_dump(exclude_none=True)}
        settings |= {"recipe": how.model_dump(), "images": images_sha256(gathered), "divided": needed, "seed": seed}
        run = RunDir(out, settings | {"count": count, "one_budget": one_budget}, resume)
    prepared = prepare(subject.model, subject.inventory, calib, how, seed, classifier=subject.classifier)
    with prepared.simulator() as simulator:
        simulator.prepare(laid_out.choices)
        contest = _Contest(
            laid_out,
            limits,
            one_budget,
            Probe(simulator, probed, subject.classifier, {}, batch_size, seed, keep_outputs=True),
            Judge(simulator, judged, subject.classifier, batch_size),
            Judge(simulator, unseen, subject.classifier, batch_size),
            run,
        )
        contest.draw(count, seed)
        for name in metrics:
            contest.enter(name)
        contest.enter_rounds()
        contest.enter_baselines(seed)
    ranks = Ranks(pd.DataFrame(contest.rows).set_index("metric"), contest.allocations, contest.default)
    if run is not None:
        write_csv(run.path / "rank.csv", ranks.summary.reset_index())
        write_csv(run.path / "allocations.csv", ranks.allocations)
        for (name, budget), assignment in contest.optima.items():
            plan = planned(subject.info, subject.inventory, assignment, how, laid_out.name, budget)
            plan.save(run.path / "allocations" / f"{name}-{budget}.json")
    return ranks


class _Contest:
    """Enters metrics one after the other, against the same allocations and the same images."""

    def __init__(
        self,
        space: Space,
        limits: dict[str, Limits],
        one_budget: str,
        probe: Probe,
        judge: Judge,
        truth: Judge,
        run: RunDir | None,
    ) -> None:
        self.space, self.limits, self.one_budget = space, limits, one_budget
        self.probe, self.judge, self.truth, self._run = probe, judge, truth, run
        self.error = "kl" if probe.classifier else "feature_error"
        self.default = f"{ROUNDS_OF}+rounds"
        self.rows: list[dict[str, Any]] = []
        self.optima: dict[tuple[str, str], Assignment] = {}
        self._costs = Tables.build(space, SensitivityTable.zeros(space.choices))
        self._tables: dict[str, Tables] = {}
        self._probes: dict[str, Probe] = {}
        self._forward_s = _forward_seconds(probe)

    def draw(self, count: int, seed: int) -> None:
        """Draw allocations and simulate them."""
        rng = np.random.default_rng(seed)
        at_one = random_at_budget(self._costs, self.limits[self.one_budget], count, rng)
        self._genomes: Genomes = np.concatenate([random_genomes(self._costs, count, rng), at_one])
        self._one = np.arange(len(self._genomes)) >= count
        told = [self._truth(self.space.assignment(g)) for g in track(self._genomes, "simulating random allocations")]
        costs = self._costs.evaluate(self._genomes)
        self.allocations = pd.DataFrame(told)[[self.error, "agreement"]]
        self.allocations["size_bytes"], self.allocations["bit_ops"] = costs[:, 1], costs[:, 2]
        self.allocations["set"] = np.where(self._one, self.one_budget, "all budgets")

    def enter(self, name: str) -> None:
        """Measure with a metric, and see how it ranks and what it calls optimal."""
        metric, _, around = name.partition("@")
        base = self.space.uniform(*read_bits(around)) if around else {}
        if around not in self._probes:
            self._probes[around] = replace(self.probe, base=base)
        table = measure(self._probes[around], self.space, metric, self._run, f"{name}/")
        if self._run is not None:  # a resumed run has not measured again what its journal has
            before = self._run.recall(f"seconds/{name}")
            table.seconds = before["seconds"] if before else table.seconds
            self._run.record(f"seconds/{name}", {"seconds": table.seconds})
        self._tables[name] = tables = Tables.build(self.space, table)
        start = self.space.genome(base) if base and METRICS[metric].relative else None
        near = None if start is None else trust_region(start)
        optima = {b: _optimum(tables, self.limits[b], near) for b in self.limits if b != self.one_budget}
        self._add(name, tables, table.seconds, {b: self.space.assignment(g) for b, g in optima.items() if g is not None})

    def enter_rounds(self) -> None:
        """Search by rounds at every budget, as ``pmq search`` does."""
        optima, seconds, tables = {}, [], self._costs
        probe = Probe(self.probe.simulator, self.probe.images, self.probe.classifier, {}, self.probe.batch_size, self.probe.seed)
        for budget, limits in self.limits.items():
            start = time.perf_counter()
            trials = Trials(self.judge, self.space, None, Effort())
            going = Rounds(probe, ROUNDS_OF, self.space, limits, trials, None)
            going.run(compared_candidates(self.space, going.tables, limits))
            if budget == self.one_budget:
                tables = going.tables
                continue
            seconds.append(time.perf_counter() - start)
            known = {g: t.total.error for g, t in trials.complete().items()}
            genomes = np.array(list(known))
            costs = going.tables.evaluate(genomes)
            promise = np.where(within(limits, costs), costs[:, 0] * np.array(list(known.values())), np.inf)
            optima[budget] = self.space.assignment(genomes[promise.argmin()])
        self._add(self.default, tables, float(np.mean(seconds)), optima)

    def enter_baselines(self, seed: int) -> None:
        """Uniform bits, the greedy way by noise against signal, and the best of some random allocations."""
        rng = np.random.default_rng(seed + 1)
        rows: dict[str, dict[str, Assignment]] = {"uniform": {}, "random": {}}
        for budget, limits in self.limits.items():
            if budget == self.one_budget:
                continue
            uniform = largest_uniform(self.space, self._costs, limits)
            if uniform is not None:
                rows["uniform"][budget] = self.space.assignment(uniform.genome)
            drawn = random_at_budget(self._costs, limits, RANDOM, rng)
            found = [self.judge.judge(self.space.assignment(g)).error for g in track(drawn, "random search")]
            rows["random"][budget] = self.space.assignment(drawn[int(np.argmin(found))])
        if "sqnr" not in self._tables:
            self._tables["sqnr"] = Tables.build(self.space, measure(self.probe, self.space, "sqnr", self._run, "sqnr/"))
        tables = self._tables["sqnr"]
        lowered = {b: greedy(tables, limits) for b, limits in self.limits.items() if b != self.one_budget}
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
            told = self._truth(assignment)
            row |= {f"{self.error} {budget}": told[self.error], f"agreement {budget}": told["agreement"]}
        self.rows.append(row)

    def _taus(self, name: str, predicted: Floats, of: Any) -> dict[str, float]:
        ranking = rank_correlation(predicted[of], self.allocations[self.error].to_numpy()[of])
        if ranking is None:
            return {}
        return {name: ranking.tau, f"{name}_low": ranking.low, f"{name}_high": ranking.high}

    def _truth(self, assignment: Assignment) -> dict[str, float | None]:
        name = "truth/" + ",".join(choice.label for choice in assignment.values())
        return judged(self.truth, assignment, name, self._run).compute()


def _optimum(tables: Tables, limits: Limits, near: tuple[Genomes, int] | None) -> Genomes | None:
    """The best genome by a table: exact where errors add up; else evolved from where that leads."""
    exact = ExactSolver(tables).solve(limits, near=near)
    if tables.predict is None or exact is None:
        return exact
    seen = nsga2(tables, limits, exact[None])
    costs = tables.evaluate(seen)
    best: Genomes = seen[np.where(within(limits, costs), costs[:, 0], np.inf).argmin()]
    return best


def _forward_seconds(probe: Probe) -> float:
    """Seconds of one FP32 forward pass over the images that metrics look at."""
    probe.simulator.apply({})
    times = []
    for _ in range(3):
        start = time.perf_counter()
        probe.outputs()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
