"""From tables to judged points: explore the space, simulate what is promising, choose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pmq.core import FLOAT, Assignment, Limits
from pmq.core.progress import track
from pmq.core.rundir import RunDir
from pmq.cost import CostModel
from pmq.evaluate import Judge
from pmq.search import ExactSolver, Space, Tables, non_dominated, nsga2, within
from pmq.search.candidates import Candidate, exact_candidates, nearby_candidates, sweep_candidates
from pmq.search.tables import Floats, Genomes

#: uniform allocations that every run simulates for comparison
UNIFORM = (8, 6, 4)
#: budgets between the cheapest and the dearest point at which the front is solved exactly
SWEEP = 10
#: points of the evolved front around the budget that are simulated
NEARBY = 8
METRICS = ["kl", "agreement", "feature_error"]


@dataclass(frozen=True)
class Archive:
    """Every genome looked at ``(B, D)``, its costs ``(B, 3)``, and which to simulate, from where."""

    genomes: Genomes
    costs: Floats
    candidates: list[Candidate]


def explore(space: Space, tables: Tables, limits: Limits, seed: int) -> Archive:
    """Search the tables: exact solutions first, NSGA-II from them, without and then within the budget."""
    solver = ExactSolver(tables)
    exact = exact_candidates(tables, solver, limits)
    sweep = sweep_candidates(solver, _sweep(tables))
    uniform = [
        Candidate(tuple(genome), f"uniform w{bits}a{bits}")
        for bits in range(2, 9)
        if (genome := space.genome(space.uniform(bits, bits))) is not None
    ]
    seeds = np.array([c.genome for c in exact + sweep + uniform] or [tuple(np.zeros(len(space.decisions), int))])
    stages = [nsga2(tables, bounds, seeds, seed=seed) for bounds in track([Limits(), limits], "evolving the front")]
    genomes = np.concatenate([seeds, *stages])
    genomes = genomes[np.sort(np.unique(genomes, axis=0, return_index=True)[1])]
    costs = tables.evaluate(genomes)
    nearby = nearby_candidates(genomes, costs, limits, NEARBY)
    shown = [c for c in uniform if c.source in {f"uniform w{b}a{b}" for b in UNIFORM}]
    best_uniform = [c for c in uniform if within(limits, tables.evaluate(np.array([c.genome])))[0]][-1:]
    return Archive(genomes, costs, list({c.genome: c for c in [*nearby, *sweep, *exact, *shown, *best_uniform]}.values()))


def _sweep(tables: Tables) -> list[tuple[str, Limits]]:
    """Budgets from the cheapest point to the dearest, in equal ratios."""
    low, high = np.array(tables.cheapest()), np.array(tables.dearest())
    steps = np.linspace(0, 1, SWEEP + 1)[1:]
    return [(f"{t:.0%} of the way", Limits(*map(float, low * (high / low) ** t))) for t in steps]


def judge_candidates(judge: Judge, archive: Archive, space: Space, limits: Limits, run: RunDir | None) -> pd.DataFrame:
    """Simulate the candidates on the judge's images and lay out every point, simulated or not."""
    index = {tuple(map(int, g)): i for i, g in enumerate(archive.genomes)}
    points = pd.DataFrame(archive.costs, columns=["predicted_error", "size_bytes", "bit_ops"])
    points.insert(0, "source", "nsga2")
    points["within"] = within(limits, archive.costs)
    points["front"] = non_dominated(archive.costs)
    points["genome_id"] = np.arange(len(points))
    for name in METRICS:
        points[name] = np.nan
    for candidate in track(archive.candidates, "simulating candidates"):
        at = index[candidate.genome]
        points.loc[at, "source"] = candidate.source
        metrics = _judged(judge, space.assignment(candidate.genome), ",".join(map(str, candidate.genome)), run)
        points.loc[at, METRICS] = [metrics[name] for name in METRICS]
    foreign = _foreign_uniform(judge, space, index, limits, run)
    return pd.concat([points, foreign], ignore_index=True) if len(foreign) else points


def _judged(judge: Judge, assignment: Assignment, name: str, run: RunDir | None) -> dict[str, float]:
    """Simulate an allocation, or take what the journal has of it under ``name``; NaN where there is nothing to tell."""
    key = f"simulation/{name}"
    metrics = run.recall(key) if run else None
    if metrics is None:
        metrics = judge.judge(assignment)
        if run:
            run.record(key, metrics)
    return {n: float("nan") if (value := metrics[n]) is None else value for n in METRICS}


def _foreign_uniform(
    judge: Judge, space: Space, index: dict[tuple[int, ...], int], limits: Limits, run: RunDir | None
) -> pd.DataFrame:
    """FP32 and the uniform allocations that the space does not hold: for comparison, never to be chosen."""
    costs, rows = CostModel(space.inventory), []
    assignments = {"fp32": dict.fromkeys(space.inventory.names, FLOAT)}
    assignments |= {f"uniform w{bits}a{bits}": space.uniform(bits, bits) for bits in UNIFORM}
    for source, assignment in assignments.items():
        genome = space.genome(assignment)
        if genome is not None and tuple(genome) in index:
            continue
        size, ops = costs.size_bytes(assignment), costs.bit_ops(assignment)
        row = {"source": source, "size_bytes": size, "bit_ops": ops}
        row |= {"within": limits.allow(size, ops), "front": False, "genome_id": -1, "predicted_error": np.nan}
        rows.append(row | _judged(judge, assignment, source, run))
    return pd.DataFrame(rows)
