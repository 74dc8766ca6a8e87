"""The candidates simulated so far: evaluated on parts of the images, journaled, and no part twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import NamedTuple

import numpy as np

from pmq.core.choice import Decisions
from pmq.core.errors import PmqError
from pmq.core.progress import message, track
from pmq.core.rundir import RunDir
from pmq.evaluation import Accuracy, Evaluator
from pmq.evaluation.executor import Executor, Failed, Unit
from pmq.optimize import Space
from pmq.optimize.candidates import Candidate
from pmq.optimize.tables import Floats, Genomes
from pmq.pipeline.search.state import simulate
from pmq.pipeline.search.stopping import StoppingCriteria

Genome = tuple[int, ...]


class _Place(NamedTuple):
    """Name of an allocation, and part of the images on which it is simulated."""

    name: str
    part: int


@dataclass
class SimulatedCandidate:
    """A simulated candidate: its source, and its accuracy on each part of the images simulated so far, by part."""

    source: str
    accuracies: dict[int, Accuracy] = field(default_factory=dict)

    @property
    def parts(self) -> list[Accuracy]:
        """Accuracies of the first parts, up to the first one that is missing."""
        return [self.accuracies[part] for part in takewhile(self.accuracies.__contains__, count())]

    @property
    def total(self) -> Accuracy:
        """Accuracy over all simulated parts."""
        return total_of(self.parts)


class CandidatePool:
    """Simulates candidates and stores their accuracies.

    A candidate whose simulation fails on several workers is reported and left out.

    Args:
        executor: simulates allocations on parts of the images; its state is a :class:`pmq.pipeline.search.state.SearchState`.
        evaluator: evaluator of the executor's state.
        space: search space of the genomes.
        run: run whose journal stores the results, or ``None``.
        stopping: criteria that end the simulation of further candidates.
    """

    def __init__(
        self, executor: Executor, evaluator: Evaluator, space: Space, run: RunDir | None, stopping: StoppingCriteria
    ) -> None:
        self.executor, self.evaluator, self.space, self._run, self.stopping = executor, evaluator, space, run, stopping
        self.simulated: dict[Genome, SimulatedCandidate] = {}
        self._failed: set[Genome] = set()

    def simulate(self, candidates: Iterable[Candidate]) -> None:
        """Simulate candidates on all images, regardless of the stopping criteria."""
        self._advance(list(candidates), len(self.evaluator.parts), "simulating candidates", lambda _: True)

    def successive_halving(self, candidates: Iterable[Candidate]) -> None:
        """Simulate candidates on a quarter of the images, the better half on two quarters, the better half of those on all.

        A few images cannot rank candidates near the optimum, but they show which candidates are far from it.
        """

        def eligible(candidate: Candidate) -> bool:
            return candidate.genome in self.simulated or not self.stopping.over(len(self.simulated))

        running = list({c.genome: c for c in candidates if c.genome not in self.simulated}.values())
        for parts in range(1, len(self.evaluator.parts) + 1):
            self._advance(running, parts, f"simulating on part {parts} of the images", eligible)
            running = [c for c in running if c.genome in self.simulated]
            running.sort(key=lambda c: float(self.simulated[c.genome].total.error))
            running = running[: -(-len(running) // 2)]

    def accuracy_of(self, decisions: Decisions, name: str) -> Accuracy | None:
        """Simulate an allocation that may be outside the space on all images, journaled under ``name``; None if that failed."""
        known: dict[int, Accuracy] = {}
        for _, part, result in self._accuracies((name, decisions, part) for part in range(len(self.evaluator.parts))):
            if isinstance(result, Failed):
                message(f"{name} is left out, as its simulation failed: {result.reason}")
                return None
            known[part] = result
        return total_of([known[part] for part in sorted(known)])

    def _advance(self, candidates: Sequence[Candidate], parts: int, label: str, eligible: Callable[[Candidate], bool]) -> None:
        """Simulate each candidate on the first ``parts`` parts, if it is still ``eligible`` when its turn comes."""
        genomes: dict[str, Genome] = {}

        def missing() -> Iterator[tuple[str, Decisions, int]]:
            for candidate in track(candidates, label):
                if candidate.genome in self._failed or not eligible(candidate):
                    continue
                entry = self.simulated.setdefault(candidate.genome, SimulatedCandidate(candidate.source))
                name = ",".join(map(str, candidate.genome))
                genomes[name] = candidate.genome
                decisions = self.space.decided(candidate.genome)
                unknown = (part for part in range(parts) if part not in entry.accuracies)
                yield from ((name, decisions, part) for part in unknown if candidate.genome not in self._failed)

        try:
            for name, part, result in self._accuracies(missing()):
                genome = genomes[name]
                if not isinstance(result, Failed):
                    self.simulated[genome].accuracies[part] = result
                elif genome not in self._failed:
                    self._failed.add(genome)
                    message(f"allocation {name} is left out, as its simulation failed: {result.reason}")
        finally:  # an interrupt leaves candidates without any result
            bare = [genome for genome, entry in self.simulated.items() if genome in self._failed or not entry.parts]
            for genome in bare:
                del self.simulated[genome]

    def _accuracies(self, parts: Iterator[tuple[str, Decisions, int]]) -> Iterator[tuple[str, int, Accuracy | Failed]]:
        """Yield the accuracy of allocations by name on parts of the images: from the journal, or simulated and journaled."""
        known: list[tuple[str, int, Accuracy | Failed]] = []

        def unknown() -> Iterator[Unit]:
            for name, decisions, part in parts:
                entry = self._run.recall(_key(name, part)) if self._run else None
                if entry is not None:
                    known.append((name, part, Accuracy.from_sums(entry, self.evaluator.task)))
                else:
                    yield Unit(
                        _Place(name, part), f"allocation {name}, part {part + 1} of the images", simulate, (decisions, part)
                    )

        for unit, result in self.executor.run(unknown()):
            assert isinstance(unit.key, _Place)
            if self._run and not isinstance(result, Failed):
                self._run.record(_key(*unit.key), result.sums)
            yield *unit.key, result
        yield from known

    def complete(self) -> dict[Genome, SimulatedCandidate]:
        """Return the candidates simulated on all images."""
        return {g: t for g, t in self.simulated.items() if len(t.parts) == len(self.evaluator.parts)}

    def estimates(self) -> tuple[Genomes, Floats]:
        """Return all genomes ``(B, D)`` and their mean errors ``(B,)``.

        The error of a candidate that was simulated on some parts only is scaled to all images by the ratio that the complete
        candidates have.

        Raises:
            PmqError: the simulation of every candidate failed.
        """
        if self._failed and not self.simulated:
            raise PmqError("no allocation could be simulated; see the messages above")
        complete = list(self.complete().values())
        # Mean error of the complete candidates on their first n parts, by n.
        n_parts = len(self.evaluator.parts)
        means = {n: _mean([p for t in complete for p in t.parts[:n]]) for n in range(1, n_parts + 1)} if complete else {}
        errors = []
        for entry in self.simulated.values():
            mean = means.get(len(entry.parts), 0.0)
            errors.append(_mean(entry.parts) * (means[n_parts] / mean if mean > 0 else 1.0))
        return np.array(list(self.simulated)), np.array(errors)


def _key(name: str, part: int) -> str:
    return f"simulation/{name}/{part}"


def total_of(parts: Sequence[Accuracy]) -> Accuracy:
    """Return the accuracy over several parts of the images."""
    return sum(parts[1:], parts[0])


def _mean(parts: Sequence[Accuracy]) -> float:
    return total_of(parts).mean_error
