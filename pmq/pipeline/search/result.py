"""The result of a search."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from pmq.core import Allocation, Limits
from pmq.core.coverage import EVERYTHING, Coverage
from pmq.core.memory_limit import peak_bytes
from pmq.metrics import SensitivityTable
from pmq.models.equivalence import Rewriting
from pmq.pipeline.search.clock import Clock
from pmq.pipeline.search.explore import prediction_quality
from pmq.pipeline.search.plan import SearchPlan
from pmq.pipeline.search.steps import Chosen, Explored


@dataclass
class SearchResult:
    """The result of a search.

    Attributes:
        allocation: the chosen allocation.
        points: every explored allocation: predicted error, ``size_bytes``, ``bit_ops``, whether it is ``within`` the budget and
            on the ``front`` of the three; ``kl`` and ``agreement`` (percent) where it was simulated.
        sensitivity: the sensitivity table that the search used.
        limits: cost limits of the budget.
        rounds: duration and result of each round.
        ranking: Kendall's tau between prediction and simulation, over ``all`` points and over those ``near_budget``.
        run: run directory, or ``None``.
        seconds: duration of each step of the search.
        without_patches: the chosen allocation before its patches got bits of their own, or ``None``.
        rewritings: the recipe's transforms, the relative error of the outputs after each, and whether it was kept.
        coverage: percent of multiply-accumulates and of weight bytes that were searched, and the operators outside.
        peak_bytes: most memory that this process has held so far.
    """

    allocation: Allocation
    points: pd.DataFrame
    sensitivity: SensitivityTable
    limits: Limits
    rounds: pd.DataFrame
    ranking: dict[str, dict[str, float]]
    run: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    without_patches: Allocation | None = None
    rewritings: tuple[Rewriting, ...] = ()
    coverage: Coverage = EVERYTHING
    peak_bytes: int = 0

    @property
    def front(self) -> pd.DataFrame:
        """The Pareto front, in order of rising bit operations."""
        return self.points[self.points["front"]].sort_values(["bit_ops", "size_bytes"]).reset_index(drop=True)


def result_of(
    plan: SearchPlan,
    explored: Explored,
    chosen: Chosen,
    rewritings: tuple[Rewriting, ...],
    with_patches: Allocation | None,
    clock: Clock,
) -> SearchResult:
    """Put together the result of a search; ``with_patches`` is the chosen allocation with bits of patches, if it has any."""
    return SearchResult(
        allocation=chosen.allocation if with_patches is None else with_patches,
        points=explored.points,
        sensitivity=explored.rounds.table,
        limits=chosen.limits,
        rounds=pd.DataFrame([asdict(each) for each in explored.rounds.history]),
        ranking=prediction_quality(explored.points, plan.subject.task, chosen.limits),
        run=plan.path,
        seconds=clock.done(explored.rounds.history),
        without_patches=None if with_patches is None else chosen.allocation,
        rewritings=rewritings,
        coverage=plan.coverage,
        peak_bytes=peak_bytes(),
    )
