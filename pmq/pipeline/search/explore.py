"""The exploration of the tables: the front, the promising candidates simulated, and the table of all points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from pmq.core import FLOAT, Assignment, Limits
from pmq.core.progress import track
from pmq.core.task import Task
from pmq.cost import CostModel
from pmq.evaluation.executor import Unit
from pmq.optimize import Space, Tables, non_dominated, nsga2, solver_for, within
from pmq.optimize.candidates import (
    Candidate,
    largest_uniform,
    mode_candidates,
    nearby_candidates,
    sweep_candidates,
    uniform_bits_within,
    uniform_candidates,
)
from pmq.optimize.ranking import rank_correlation
from pmq.optimize.tables import Floats, Genomes
from pmq.pipeline.search.candidate_pool import CandidatePool

#: uniform allocations that every run simulates for comparison
UNIFORM = (8, 6, 4)
#: budgets between the lower and the upper bound of the costs at which the front is solved exactly
SWEEP = 8
#: points of the evolved front near the budget that are simulated
NEARBY = 4
#: in place of the genome of a point outside the space: one that can be chosen, and one that is only compared
REFERENCE, FOREIGN = -1, -2
ACCURACY_COLUMNS = ["kl", "agreement", "feature_error"]


@dataclass(frozen=True)
class Archive:
    """Every explored genome, with its predicted error and costs.

    Attributes:
        genomes: genomes ``(B, D)``.
        costs: predicted error and costs ``(B, 1 + n_costs)``.
        names: names of the costs.
    """

    genomes: Genomes
    costs: Floats
    names: tuple[str, ...]


def compared_candidates(space: Space, tables: Tables, limits: Limits) -> list[Candidate]:
    """Return the uniform allocations that every run simulates, one for each mode, and the largest within the budget."""
    by_bits = uniform_candidates(space)
    largest = largest_uniform(space, tables, limits)
    uniform = [by_bits[b] for b in UNIFORM if b in by_bits] + mode_candidates(space)
    return list(dict.fromkeys(uniform + ([largest] if largest else [])))


def explore(space: Space, tables: Tables, limits: Limits, pool: CandidatePool, seed: int) -> Archive:
    """Explore the tables by exact solutions over a sweep of budgets and by NSGA-II, and simulate promising candidates.

    NSGA-II starts from the exact solutions and from all candidates simulated so far.
    """
    sweep = sweep_candidates(solver_for(tables), _sweep(tables))
    seeds = np.array([*(c.genome for c in sweep), *pool.simulated])
    units = [
        Unit(i, f"evolving front {i}", _evolved, (nsga2, tables, bounds, seeds, seed))
        for i, bounds in enumerate([Limits(), limits])
    ]
    evolved = {unit.key: result for unit, result in track(pool.executor.run(units), "evolving the front", len(units))}
    stages = [e if isinstance(e := evolved[u.key], np.ndarray) else u.function(None, *u.arguments) for u in units]
    genomes = np.concatenate([seeds, *stages])
    genomes = genomes[np.sort(np.unique(genomes, axis=0, return_index=True)[1])]
    costs = tables.evaluate(genomes)
    pool.successive_halving(nearby_candidates(genomes, costs, limits, NEARBY))
    if not pool.stopping.over():
        pool.simulate(sweep)
    return Archive(genomes, costs, tables.cost_names)


def _evolved(_: object, evolve: Callable[..., Genomes], tables: Tables, bounds: Limits, seeds: Genomes, seed: int) -> Genomes:
    """Evolve a front, as a unit of work that needs no state."""
    return evolve(tables, bounds, seeds, seed=seed)


def _sweep(tables: Tables) -> list[tuple[str, Limits]]:
    """Return budgets from the lower to the upper bound of the costs, in equal ratios.

    Milliseconds are in equal steps where the lower bound is not positive: a layer's latency is the difference of two
    measurements, which noise may make negative.
    """
    low, high = np.array(tables.lower_bound(), float), np.array(tables.upper_bound(), float)
    ratios = np.divide(high, low, out=np.ones_like(low), where=low > 0)
    steps = np.linspace(0, 1, SWEEP + 1)[1:]
    return [
        (f"{t:.0%} of the way", Limits(*map(float, np.where(low > 0, low * ratios**t, low + (high - low) * t)))) for t in steps
    ]


def lay_out(archive: Archive, pool: CandidatePool, space: Space, limits: Limits) -> pd.DataFrame:
    """Return a table with a row for every explored point, simulated or not."""
    index = {tuple(map(int, g)): i for i, g in enumerate(archive.genomes)}
    points = pd.DataFrame(archive.costs, columns=["predicted_error", *archive.names])
    points.insert(0, "source", "nsga2")
    points["within"] = within(limits, archive.costs)
    points["front"] = non_dominated(archive.costs)
    points["genome_id"] = np.arange(len(points))
    for name in ACCURACY_COLUMNS:
        points[name] = np.nan
    points["n_images"] = 0
    complete = pool.complete()
    for genome, candidate in pool.simulated.items():
        at = index[genome]
        points.loc[at, "source"] = candidate.source
        points.loc[at, "n_images"] = candidate.total.n_images
        if genome in complete:  # a part of the images is too few to draw a point from
            points.loc[at, ACCURACY_COLUMNS] = _figures(candidate.total.compute())
    foreign = _foreign(pool, space, index, limits)
    return pd.concat([points, foreign], ignore_index=True) if len(foreign) else points


def _figures(metrics: dict[str, float | None]) -> list[float]:
    return [float("nan") if (value := metrics[n]) is None else value for n in ACCURACY_COLUMNS]


def references(space: Space, limits: Limits) -> dict[str, Assignment]:
    """Return FP32, the uniform allocations that every run simulates, and the largest one within the limits, by source."""
    assignments: dict[str, Assignment] = {"fp32": dict.fromkeys(space.inventory.names, FLOAT)}
    free = not space.file.modes and space.file.operators is None
    if free and space.latency is None:  # a comparison with bits that no kernel computes would be unfair
        largest = uniform_bits_within(space, limits)
        widths = dict.fromkeys([*UNIFORM, *([] if largest is None else [largest])])
        assignments |= {f"uniform w{bits}a{bits}": space.uniform(bits, bits) for bits in widths}
    return assignments


def _foreign(pool: CandidatePool, space: Space, index: dict[tuple[int, ...], int], limits: Limits) -> pd.DataFrame:
    """Return rows of the references outside the space.

    Uniform ones have quantizers of their own there, which may be the better ones; they can be chosen if the space has their bits.
    """
    costs, rows = CostModel(space.inventory, space.latency), []
    for source, assignment in references(space, limits).items():
        genome = space.genome(assignment)
        if genome is not None and tuple(genome) in index:
            continue
        cost = costs.costs(assignment)
        total = pool.accuracy_of(assignment, source)
        if total is None:
            continue
        row: dict[str, Any] = {"source": source, "n_images": total.n_images} | cost
        row |= {"within": limits.allow(*cost.values()), "front": False, "predicted_error": np.nan}
        row |= {"genome_id": REFERENCE if source != "fp32" and space.has_bits(assignment) else FOREIGN}
        rows.append(row | dict(zip(ACCURACY_COLUMNS, _figures(total.compute()), strict=True)))
    return pd.DataFrame(rows)


def prediction_quality(points: pd.DataFrame, task: Task, limits: Limits) -> dict[str, dict[str, float]]:
    """Return the rank correlation of prediction and simulation: over all points, and over those within and near the budget."""
    error = task.error_name
    known = points[points[error].notna() & points["predicted_error"].notna()]
    # The task of a search is to rank allocations that all cost about as much as the budget allows.
    bounds = {name: limit for name, limit in asdict(limits).items() if limit is not None}
    share = pd.concat([known[name] / limit for name, limit in bounds.items()], axis=1).max(axis=1)
    near = known[known["within"] & (share > 0.95 * share[known["within"]].max())]
    subsets = {"all": known, "near_budget": near}
    ranked = {n: rank_correlation(k["predicted_error"].to_numpy(), k[error].to_numpy()) for n, k in subsets.items()}
    return {name: asdict(ranking) for name, ranking in ranked.items() if ranking is not None}
