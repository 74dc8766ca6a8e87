"""Allocations simulated so far: raced on parts of the images, journaled, no part twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pmq.core.choice import Decisions
from pmq.core.progress import track
from pmq.core.rundir import RunDir
from pmq.evaluation import Accuracy, Evaluator
from pmq.optimize import Space
from pmq.optimize.candidates import Candidate
from pmq.optimize.tables import Floats, Genomes
from pmq.pipeline.search.stopping import StoppingCriteria

Genome = tuple[int, ...]


@dataclass
class SimulatedCandidate:
    """A simulated allocation: where it comes from, and what each part of the images said."""

    source: str
    parts: list[Accuracy] = field(default_factory=list)

    @property
    def total(self) -> Accuracy:
        """Over all parts judged."""
        return total_of(self.parts)


class CandidatePool:
    """Simulates candidates and remembers.

    Args:
        judge: with the images.
        space: whose genomes they are.
        run: whose journal to use.
        effort: what may be spent.
    """

    def __init__(self, evaluator: Evaluator, space: Space, run: RunDir | None, stopping: StoppingCriteria) -> None:
        self.evaluator, self.space, self._run, self.stopping = evaluator, space, run, stopping
        self.simulated: dict[Genome, SimulatedCandidate] = {}

    def simulate(self, candidates: Iterable[Candidate]) -> None:
        """Simulate candidates on all images, whatever the budget of time says."""
        for candidate in track(list(candidates), "simulating candidates"):
            self._advance(candidate, len(self.evaluator.parts))

    def successive_halving(self, candidates: Iterable[Candidate]) -> None:
        """Simulate candidates on a quarter of the images, the better half on two, the better half of those on all.

        Near the optimum few images cannot tell candidates apart; what they can tell is which are far from it.
        """
        running = list({c.genome: c for c in candidates if c.genome not in self.simulated}.values())
        for parts in range(1, len(self.evaluator.parts) + 1):
            for candidate in track(running, f"simulating, heat {parts}"):
                if self.stopping.over(len(self.simulated)) and candidate.genome not in self.simulated:
                    continue
                self._advance(candidate, parts)
            running = [c for c in running if c.genome in self.simulated]
            running.sort(key=lambda c: self.simulated[c.genome].total.error)
            running = running[: -(-len(running) // 2)]

    def _advance(self, candidate: Candidate, parts: int) -> None:
        trial = self.simulated.setdefault(candidate.genome, SimulatedCandidate(candidate.source))
        for part in range(len(trial.parts), parts):
            name = ",".join(map(str, candidate.genome))
            trial.parts.append(simulate_part(self.evaluator, self.space.decided(candidate.genome), name, part, self._run))

    def complete(self) -> dict[Genome, SimulatedCandidate]:
        """Those judged on all images."""
        return {g: t for g, t in self.simulated.items() if len(t.parts) == len(self.evaluator.parts)}

    def estimates(self) -> tuple[Genomes, Floats]:
        """All genomes ``(B, D)`` and their errors ``(B,)``.

        Errors of those not judged on all images are scaled as those that were would lead one to expect.
        """
        whole = list(self.complete().values())
        # What the mean error of complete trials on all images is to theirs on the first n parts, by n.
        n_parts = len(self.evaluator.parts)
        means = {n: _mean([p for t in whole for p in t.parts[:n]]) for n in range(1, n_parts + 1)} if whole else {}
        errors = []
        for trial in self.simulated.values():
            on_these = means.get(len(trial.parts), 0.0)
            errors.append(_mean(trial.parts) * (means[n_parts] / on_these if on_these > 0 else 1.0))
        return np.array(list(self.simulated)), np.array(errors)


def total_of(parts: Sequence[Accuracy]) -> Accuracy:
    """Join parts of the images."""
    return sum(parts[1:], parts[0])


def _mean(parts: Sequence[Accuracy]) -> float:
    total = total_of(parts)
    return total.error / total.n_images


def simulate_allocation(evaluator: Evaluator, assignment: Decisions, name: str, run: RunDir | None) -> Accuracy:
    """Simulate an allocation on all images, taking from and adding to the journal, there under ``name``."""
    return total_of([simulate_part(evaluator, assignment, name, part, run) for part in range(len(evaluator.parts))])


def simulate_part(evaluator: Evaluator, assignment: Decisions, name: str, part: int, run: RunDir | None) -> Accuracy:
    """Simulate an allocation on a part of the images, or take what the journal has of it."""
    key = f"simulation/{name}/{part}"
    known = run.recall(key) if run else None
    if known is not None:
        return Accuracy(**known, task=evaluator.task)
    sums = evaluator.evaluate(assignment, part)
    if run:
        run.record(key, sums.sums)
    return sums
