"""The candidates simulated so far: evaluated on parts of the images, journaled, and no part twice."""

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
    """A simulated candidate: its source, and its accuracy on each part of the images simulated so far."""

    source: str
    parts: list[Accuracy] = field(default_factory=list)

    @property
    def total(self) -> Accuracy:
        """Accuracy over all simulated parts."""
        return total_of(self.parts)


class CandidatePool:
    """Simulates candidates and stores their accuracies.

    Args:
        evaluator: evaluates an allocation on a part of the images.
        space: search space of the genomes.
        run: run whose journal stores the results, or ``None``.
        stopping: criteria that end the simulation of further candidates.
    """

    def __init__(self, evaluator: Evaluator, space: Space, run: RunDir | None, stopping: StoppingCriteria) -> None:
        self.evaluator, self.space, self._run, self.stopping = evaluator, space, run, stopping
        self.simulated: dict[Genome, SimulatedCandidate] = {}

    def simulate(self, candidates: Iterable[Candidate]) -> None:
        """Simulate candidates on all images, regardless of the stopping criteria."""
        for candidate in track(list(candidates), "simulating candidates"):
            self._advance(candidate, len(self.evaluator.parts))

    def successive_halving(self, candidates: Iterable[Candidate]) -> None:
        """Simulate candidates on a quarter of the images, the better half on two quarters, the better half of those on all.

        A few images cannot rank candidates near the optimum, but they show which candidates are far from it.
        """
        running = list({c.genome: c for c in candidates if c.genome not in self.simulated}.values())
        for parts in range(1, len(self.evaluator.parts) + 1):
            for candidate in track(running, f"simulating on part {parts} of the images"):
                if self.stopping.over(len(self.simulated)) and candidate.genome not in self.simulated:
                    continue
                self._advance(candidate, parts)
            running = [c for c in running if c.genome in self.simulated]
            running.sort(key=lambda c: self.simulated[c.genome].total.error)
            running = running[: -(-len(running) // 2)]

    def _advance(self, candidate: Candidate, parts: int) -> None:
        entry = self.simulated.setdefault(candidate.genome, SimulatedCandidate(candidate.source))
        for part in range(len(entry.parts), parts):
            name = ",".join(map(str, candidate.genome))
            entry.parts.append(simulate_part(self.evaluator, self.space.decided(candidate.genome), name, part, self._run))

    def complete(self) -> dict[Genome, SimulatedCandidate]:
        """Return the candidates simulated on all images."""
        return {g: t for g, t in self.simulated.items() if len(t.parts) == len(self.evaluator.parts)}

    def estimates(self) -> tuple[Genomes, Floats]:
        """Return all genomes ``(B, D)`` and their mean errors ``(B,)``.

        The error of a candidate that was simulated on some parts only is scaled to all images by the ratio that the complete
        candidates have.
        """
        complete = list(self.complete().values())
        # Mean error of the complete candidates on their first n parts, by n.
        n_parts = len(self.evaluator.parts)
        means = {n: _mean([p for t in complete for p in t.parts[:n]]) for n in range(1, n_parts + 1)} if complete else {}
        errors = []
        for entry in self.simulated.values():
            mean = means.get(len(entry.parts), 0.0)
            errors.append(_mean(entry.parts) * (means[n_parts] / mean if mean > 0 else 1.0))
        return np.array(list(self.simulated)), np.array(errors)


def total_of(parts: Sequence[Accuracy]) -> Accuracy:
    """Return the accuracy over several parts of the images."""
    return sum(parts[1:], parts[0])


def _mean(parts: Sequence[Accuracy]) -> float:
    total = total_of(parts)
    return total.error / total.n_images


def simulate_allocation(evaluator: Evaluator, assignment: Decisions, name: str, run: RunDir | None) -> Accuracy:
    """Simulate an allocation on all images; the journal stores it under ``name``, and what it has is not simulated again."""
    return total_of([simulate_part(evaluator, assignment, name, part, run) for part in range(len(evaluator.parts))])


def simulate_part(evaluator: Evaluator, assignment: Decisions, name: str, part: int, run: RunDir | None) -> Accuracy:
    """Simulate an allocation on a part of the images, or return the result that the journal has."""
    key = f"simulation/{name}/{part}"
    known = run.recall(key) if run else None
    if known is not None:
        return Accuracy(**known, task=evaluator.task)
    sums = evaluator.evaluate(assignment, part)
    if run:
        run.record(key, sums.sums)
    return sums
