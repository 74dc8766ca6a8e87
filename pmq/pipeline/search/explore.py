"""From tables to judged points: explore the space, simulate what is promising, lay everything out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from pmq.core import FLOAT, Assignment, Limits
from pmq.core.progress import track
from pmq.core.rundir import RunDir
from pmq.core.task import Task
from pmq.cost import CostModel
from pmq.optimize import Space, Tables, non_dominated, nsga2, solver_for, within
from pmq.optimize.candidates import (
    Candidate,
    largest_uniform,
    mode_candidates,
    nearby_candidates,
    sweep_candidates,
    uniform_candidates,
)
from pmq.optimize.ranking import rank_correlation
from pmq.optimize.tables import Floats, Genomes
from pmq.pipeline.search.candidate_pool import CandidatePool, simulate_allocation

#: uniform allocations that every run simulates for comparison
UNIFORM = (8, 6, 4)
#: budgets between the cheapest and the dearest point at which the front is solved exactly
SWEEP = 10
#: points of the evolved front around the budget that are simulated
NEARBY = 4
METRICS = ["kl", "agreement", "feature_error"]


@dataclass(frozen=True)
class Archive:
    """Every genome looked at ``(B, D)``, and its error and costs ``(B, 1 + costs)``, the latter by ``names``."""

    genomes: Genomes
    costs: Floats
    names: tuple[str, ...]


def compared_candidates(space: Space, tables: Tables, limits: Limits) -> list[Candidate]:
    """Uniform allocations that a search simulates: those every run does, each mode, and the largest within the budget."""
    found = uniform_candidates(space)
    largest = largest_uniform(space, tables, limits)
    uniform = [found[b] for b in UNIFORM if b in found] + mode_candidates(space)
    return list(dict.fromkeys(uniform + ([largest] if largest else [])))


def explore(space: Space, tables: Tables, limits: Limits, pool: CandidatePool, seed: int) -> Archive:
    """Search the tables: exact solutions over a sweep of budgets, NSGA-II from those and from what was simulated.

    What is most promising of it and not yet simulated is.
    """
    sweep = sweep_candidates(solver_for(tables), _sweep(tables))
    seeds = np.array([*(c.genome for c in sweep), *pool.simulated])
    stages = [nsga2(tables, bounds, seeds, seed=seed) for bounds in track([Limits(), limits], "evolving the front")]
    genomes = np.concatenate([seeds, *stages])
    genomes = genomes[np.sort(np.unique(genomes, axis=0, return_index=True)[1])]
    costs = tables.evaluate(genomes)
    pool.successive_halving(nearby_candidates(genomes, costs, limits, NEARBY))
    if not pool.stopping.over():
        pool.simulate(sweep)
    return Archive(genomes, costs, tables.cost_names)


def _sweep(tables: Tables) -> list[tuple[str, Limits]]:
    """Budgets from the cheapest point to the dearest: in equal ratios, or in equal steps of milliseconds that begin below zero.

    Those of a layer are the difference of two measurements, of which noise may make anything.
    """
    low, high = np.array(tables.lower_bound(), float), np.array(tables.upper_bound(), float)
    ratios = np.divide(high, low, out=np.ones_like(low), where=low > 0)
    steps = np.linspace(0, 1, SWEEP + 1)[1:]
    return [
        (f"{t:.0%} of the way", Limits(*map(float, np.where(low > 0, low * ratios**t, low + (high - low) * t)))) for t in steps
    ]


def lay_out(archive: Archive, pool: CandidatePool, space: Space, limits: Limits, run: RunDir | None) -> pd.DataFrame:
    """Make a table of every point, simulated or not."""
    index = {tuple(map(int, g)): i for i, g in enumerate(archive.genomes)}
    points = pd.DataFrame(archive.costs, columns=["predicted_error", *archive.names])
    points.insert(0, "source", "nsga2")
    points["within"] = within(limits, archive.costs)
    points["front"] = non_dominated(archive.costs)
    points["genome_id"] = np.arange(len(points))
    for name in METRICS:
        points[name] = np.nan
    points["n_images"] = 0
    complete = pool.complete()
    for genome, trial in pool.simulated.items():
        at = index[genome]
        points.loc[at, "source"] = trial.source
        points.loc[at, "n_images"] = trial.total.n_images
        if genome in complete:  # of the others a part of the images says too little to draw
            points.loc[at, METRICS] = _figures(trial.total.compute())
    foreign = _foreign_uniform(pool, space, index, limits, run)
    return pd.concat([points, foreign], ignore_index=True) if len(foreign) else points


def _figures(metrics: dict[str, float | None]) -> list[float]:
    return [float("nan") if (value := metrics[n]) is None else value for n in METRICS]


def _foreign_uniform(
    pool: CandidatePool, space: Space, index: dict[tuple[int, ...], int], limits: Limits, run: RunDir | None
) -> pd.DataFrame:
    """FP32 and the uniform allocations that the space does not hold: for comparison, never to be chosen."""
    costs, rows = CostModel(space.inventory, space.latency), []
    assignments: dict[str, Assignment] = {"fp32": dict.fromkeys(space.inventory.names, FLOAT)}
    if not space.file.modes and space.latency is None:  # what no kernel computes would be no fair comparison there
        assignments |= {f"uniform w{bits}a{bits}": space.uniform(bits, bits) for bits in UNIFORM}
    for source, assignment in assignments.items():
        genome = space.genome(assignment)
        if genome is not None and tuple(genome) in index:
            continue
        spent = costs.costs(assignment)
        total = simulate_allocation(pool.evaluator, assignment, source, run)
        row: dict[str, Any] = {"source": source, "n_images": total.n_images} | spent
        row |= {"within": limits.allow(*spent.values()), "front": False, "genome_id": -1, "predicted_error": np.nan}
        rows.append(row | dict(zip(METRICS, _figures(total.compute()), strict=True)))
    return pd.DataFrame(rows)


def prediction_quality(points: pd.DataFrame, task: Task, limits: Limits) -> dict[str, dict[str, float]]:
    """How well predictions rank what was simulated: all of it, and what is within the budget and close to it."""
    error = task.error_name
    known = points[points[error].notna() & points["predicted_error"].notna()]
    # What a search really faces is telling apart allocations that all cost about the budget.
    bounds = {name: limit for name, limit in asdict(limits).items() if limit is not None}
    spent = pd.concat([known[name] / limit for name, limit in bounds.items()], axis=1).max(axis=1)
    near = known[known["within"] & (spent > 0.95 * spent[known["within"]].max())]
    found = {"all": known, "near_budget": near}
    ranked = {n: rank_correlation(k["predicted_error"].to_numpy(), k[error].to_numpy()) for n, k in found.items()}
    return {name: asdict(ranking) for name, ranking in ranked.items() if ranking is not None}
