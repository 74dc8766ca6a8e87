"""Another budget from the tables of a finished run: seconds, and no forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pmq.api.allocate import planned
from pmq.api.search import resolve_budget
from pmq.core import Allocation, Budget, Choice, PmqError
from pmq.core.allocation import ModelInfo
from pmq.core.recipe import Recipe
from pmq.core.rundir import LATENCY
from pmq.cost import CostModel, LatencyTable
from pmq.report import RunData
from pmq.search import ExactSolver, Space, SpaceFile, Tables
from pmq.search.refit import corrected
from pmq.sensitivity import SensitivityTable


def solve_again(run: Path | str, budget: str | Budget) -> tuple[Path, Allocation]:
    """Solve a run's tables for another budget; write the allocation beside the run's own.

    The allocation says which bits; nothing was simulated or quantized for it. ``pmq evaluate FILE --recalibrate`` does.

    Raises:
        PmqError: ``run`` is no finished run, or its space cannot meet the budget.

    Example:
        >>> import tempfile, torch, pmq
        >>> run = pmq.search(None, torch.randn(24, 1, 28, 28), "w4a8", space="w4a8", out=tempfile.mkdtemp() + "/run").run
        >>> _, allocation = solve_again(run, "w8a8")
        >>> allocation.components["blocks.0.mlp.fc1.weight"].bits
        8
    """
    data = RunData(Path(run))
    settings = data.manifest["settings"]
    if settings.get("widths"):
        raise PmqError(f"run {str(run)!r} searched widths as well, which cannot be solved for again; search anew")
    recipe = Recipe.model_validate(settings["recipe"])
    measured = data.path / LATENCY
    latency = LatencyTable.load(measured) if measured.is_file() else None
    space = Space(SpaceFile.model_validate(settings["space"]), data.inventory, recipe.estimator, latency)
    tables = _corrected(data, space)
    budget = budget if isinstance(budget, Budget) else Budget.parse(budget)
    limits = resolve_budget(budget, space)
    genome = ExactSolver(tables).solve(limits)
    if genome is None:
        raise PmqError(
            f"no allocation of search space {space.name!r} was found within {budget.text!r}; raise the budget a little"
        )
    info = ModelInfo.model_validate(settings["model"])
    metrics = {"predicted_error": tables.evaluate(genome[None])[0, 0]}
    costs = CostModel(data.inventory, space.latency)
    allocation = planned(info, costs, space.assignment(genome), recipe, space.name, budget.text, limits, metrics)
    return allocation.save(data.path / "allocations" / f"{budget.text.replace(',', '_')}.json"), allocation


def _corrected(data: RunData, space: Space) -> Tables:
    """The run's table with the correction by what it simulated."""
    table = SensitivityTable(data.manifest["settings"]["metric"])
    errors = {
        (str(r.component), int(r.bits), str(r.quantizer), 0 if r.group_size != r.group_size else int(r.group_size)): float(
            r.error
        )
        for r in data.sensitivity.itertuples()
    }
    for name, choices in space.choices.items():
        for choice in choices:
            if not choice.is_float:
                table.put(name, choice, _find(errors, name, choice))
    tables = Tables.build(space, table)
    points = data.points
    error = "kl" if points["kl"].notna().any() else "feature_error"
    known = points[points[error].notna() & points["predicted_error"].notna()]
    genomes = np.array([[int(digit, 36) for digit in text] for text in known["genome"]])
    return corrected(tables, space, genomes, known[error].to_numpy())


def _find(errors: dict[tuple[str, int, str, int], float], name: str, choice: Choice) -> float:
    key = (name, int(choice.bits), choice.quantizer, choice.group_size or 0)
    if key not in errors:
        raise PmqError(f"the run's sensitivity.csv has no {name!r} at {choice.label} bits; search anew")
    return float(errors[key])
