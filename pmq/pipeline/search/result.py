"""What a search found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from pmq.core import Allocation, Limits
from pmq.core.coverage import EVERYTHING, Coverage
from pmq.metrics import SensitivityTable
from pmq.models.equivalence import Rewriting
from pmq.pipeline.search.clock import Clock
from pmq.pipeline.search.explore import prediction_quality
from pmq.pipeline.search.plan import SearchPlan
from pmq.pipeline.search.steps import Chosen, Explored


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        allocation: the chosen one.
        points: every allocation looked at: predicted error, ``size_bytes``, ``bit_ops``, whether it is ``within`` the
            budget and on the ``front`` of the three; ``kl`` and ``agreement`` (percent) where it was simulated.
        sensitivity: the table the search ran on.
        rounds: what each round cost and gained.
        ranking: how well predictions ranked what was simulated: Kendall's tau over ``all`` and ``near_budget``.
        limits: the budget in figures.
        without_patches: the chosen one before its patches had bits of their own, if they have.
        run: the run directory, if one was asked for.
        seconds: what each part of the search took.
        coverage: percent of multiply-accumulates and of weight bytes that were searched, and what is outside.
        rewritings: the recipe's transforms, the relative error of the outputs after each, and whether it was kept.
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

    @property
    def front(self) -> pd.DataFrame:
        """The Pareto front, cheapest first."""
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
        sensitivity=explored.loop.table,
        limits=chosen.limits,
        rounds=pd.DataFrame([asdict(each) for each in explored.loop.history]),
        ranking=prediction_quality(explored.points, plan.subject.task, chosen.limits),
        run=plan.path,
        seconds=clock.done(explored.loop.history),
        without_patches=None if with_patches is None else chosen.allocation,
        rewritings=rewritings,
        coverage=plan.coverage,
    )
