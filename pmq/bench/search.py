"""Search over tables: how close NSGA-II gets to the exact front, and how many allocations are evaluated per second."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from moocore import hypervolume

from pmq.core import Limits
from pmq.core.recipe import find_recipe
from pmq.core.task import CLASSIFICATION
from pmq.data import open_data
from pmq.graph import analyse
from pmq.metrics import METRICS, Probe, SensitivityTable
from pmq.metrics.sensitivity_table import Effects
from pmq.models import create_model, model_info
from pmq.optimize import ExactSolver, Space, Tables, nsga2, read_space
from pmq.optimize.sampling import random_genomes
from pmq.optimize.superposition import Superposition
from pmq.optimize.tables import Floats
from pmq.quant import prepare

EVALUATIONS, POPULATION = 20_000, 120
#: number of budgets of bit operations at which the front is solved exactly
SWEEP = 60
SPACES = ("default", "w4a8", "int8_fp32")


@dataclass(frozen=True)
class Gap:
    """Hypervolumes (of the logarithms of error and bit operations) as shares of the exact front's, and times in seconds."""

    space: str
    nsga2: float
    random: float
    nsga2_s: float
    exact_s: float


def front_gaps() -> list[Gap]:
    """Compare fronts on the embedded model's tables in every shipped space; NSGA-II starts from only the cheapest allocation."""
    module = create_model()
    images = open_data(None, model_info(module)).calibration_images(64, 0)
    model, inventory = analyse(module, images[:1])
    prepared = prepare(model, inventory, images[:32], find_recipe("fast"))
    gaps = []
    with prepared.simulator() as simulator:
        for name in SPACES:
            space = Space(read_space(name), inventory, "fisher")
            table = METRICS["fisher_shrunk"].measure(Probe(simulator, images[32:]), space.choices)
            gaps.append(_gap(name, Tables.build(space, table)))
    return gaps


def _gap(name: str, tables: Tables) -> Gap:
    low, high = tables.lower_bound()[1], tables.upper_bound()[1]
    start = time.perf_counter()
    solver = ExactSolver(tables)
    budgets = [Limits(None, low * (high / low) ** t) for t in np.linspace(0, 1, SWEEP + 1)[1:]]
    exact = np.array([genome for limits in budgets if (genome := solver.solve(limits)) is not None])
    solved = time.perf_counter()
    evolved = nsga2(tables, Limits(), np.zeros((1, len(tables.n_choices)), int), EVALUATIONS // POPULATION, POPULATION)
    nsga2_s = time.perf_counter() - solved
    random = random_genomes(tables, EVALUATIONS, np.random.default_rng(0))
    front = tables.evaluate(exact)
    volumes = [_volume(tables.evaluate(genomes), front) for genomes in (exact, evolved, random)]
    return Gap(name, volumes[1] / volumes[0], volumes[2] / volumes[0], nsga2_s, solved - start)


def _volume(costs: Floats, front: Floats) -> float:
    least = front[front[:, 0] > 0, 0].min()

    def coordinates(points: Floats) -> Floats:
        return np.log10(np.stack([np.maximum(points[:, 0], least), points[:, 2]], 1))

    best, worst = coordinates(front).min(0), coordinates(front).max(0)
    return float(hypervolume((coordinates(costs) - best) / (worst - best), ref=np.ones(2)))


def evaluations_per_second(n_images: int = 48, repeats: int = 5) -> dict[str, float]:
    """Measure allocations of DeiT-Tiny evaluated per second by sums of errors and by superposition, with random tables."""
    model = create_model("deit_tiny_patch16_224", pretrained=False)
    space = Space(read_space("default"), analyse(model, torch.zeros(1, 3, 224, 224))[1])
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(n_images, 16)).astype(np.float32)
    table = SensitivityTable.zeros(space.choices)
    effects = Effects(reference, reference, CLASSIFICATION)
    for name, choices in space.choices.items():
        effects.changes[name] = {c: rng.normal(0, 0.01, (n_images, 16)).astype(np.float32) for c in choices}
    tables = Tables.build(space, table)
    superposed = Superposition(space, effects, tables.error.shape[1])
    genomes = random_genomes(tables, 20_000, rng)
    speeds = {}
    for name, evaluate, count in (("additive", tables.evaluate, 20_000), ("superposition", superposed, 5_000)):
        evaluate(genomes[:count])
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            evaluate(genomes[:count])
            times.append(time.perf_counter() - start)
        speeds[name] = count / float(np.median(times))
    return speeds
