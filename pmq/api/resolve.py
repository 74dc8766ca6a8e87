"""Another budget from the tables of a finished run: seconds, and no forward pass."""

from __future__ import annotations

from pathlib import Path

from pmq.core import Allocation, Budget, Choice, PmqError
from pmq.core.files import check_target, quoted
from pmq.core.run_files import LATENCY, unchanged
from pmq.core.validation import validated
from pmq.cost import CostModel, LatencyTable
from pmq.metrics import SensitivityTable
from pmq.optimize import ExactSolver, Space, SpaceFile, Tables
from pmq.optimize.refit import posterior_update
from pmq.pipeline.allocation import plan_allocation
from pmq.pipeline.search.budget import resolve_budget
from pmq.reporting import RunData


def solve_again(run: Path | str, budget: str | Budget) -> tuple[Path, Allocation]:
    """Solve a run's tables for another budget; write the allocation beside the run's own.

    The allocation says which bits; nothing was simulated or quantized for it. ``pmq evaluate FILE --recalibrate`` does.

    Raises:
        PmqError: ``run`` is no finished run, or its space cannot meet the budget.

    Example:
        >>> import tempfile, torch, pmq
        >>> images, out = torch.randn(12, 1, 28, 28), tempfile.mkdtemp() + "/run"
        >>> quick = pmq.SearchOptions(recipe="fast", n_rounds=1)
        >>> run = pmq.search(None, images, "w4a8", space="w4a8", out=out, options=quick).run
        >>> _, allocation = solve_again(run, "w8a8")
        >>> allocation.components["blocks.0.mlp.fc1.weight"].bits
        8
    """
    data, budget = RunData(Path(run)), budget if isinstance(budget, Budget) else Budget.parse(budget)
    if data.pruned:
        raise PmqError(f"run {str(run)!r} is a pruned model, of which nothing was searched; search it without --resume")
    out = check_target(data.path / "allocations" / f"{budget.text.replace(',', '_')}.json")
    asked = data.asked
    if asked.widths:
        raise PmqError(f"run {str(run)!r} searched widths as well, which cannot be solved for again; search anew")
    if (asked.model, asked.recipe.name) != (data.allocation.model, data.allocation.recipe.name):
        raise PmqError(f"the settings of the run in {quoted(data.path)} are not those of its chosen allocation; search anew")
    space = _space(data)
    tables = _corrected(data, space)
    limits = resolve_budget(budget, space)
    genome = ExactSolver(tables).solve(limits)
    if genome is None:
        raise PmqError(
            f"no allocation of search space {space.name!r} was found within {budget.text!r}; raise the budget a little"
        )
    metrics = {"predicted_error": tables.evaluate(genome[None])[0, 0]}
    costs = CostModel(data.inventory, space.latency)
    allocation = plan_allocation(
        asked.model, costs, space.assignment(genome), asked.recipe, space.name, budget.text, limits, metrics
    )
    return allocation.save(out), allocation


def _space(data: RunData) -> Space:
    """The run's space laid over its components: that which its genomes are of."""
    measured = unchanged(data.path, data.manifest.files, LATENCY)
    latency = None if measured is None else LatencyTable.load(measured)
    file = validated(SpaceFile, data.asked.space, f"search space of the run in {quoted(data.path)}")
    space = Space(file, data.inventory, data.asked.recipe.estimator, latency)
    if data.decisions is not None:
        told = [(decision.components, decision.choices) for decision in data.decisions]
        if told != [(decision.components, decision.choices) for decision in space.decisions]:
            raise PmqError(f"the settings of the run in {quoted(data.path)} are not those that decisions.json is of; search anew")
    return space


def _corrected(data: RunData, space: Space) -> Tables:
    """The run's table with the correction by what it simulated."""
    table = SensitivityTable(data.asked.metric)
    errors = {
        (str(r.component), int(r.bits), str(r.quantizer), 0 if r.group_size != r.group_size else int(r.group_size)): float(
            r.error
        )
        for r in data.sensitivity.itertuples()
    }
    for name, choices in space.choices.items():
        for choice in choices:
            if not choice.is_fp32:
                table.put(name, choice, _find(errors, name, choice))
    tables = Tables.build(space, table)
    points = data.points
    error = "kl" if points["kl"].notna().any() else "feature_error"
    known = points[points[error].notna() & points["predicted_error"].notna()]
    genomes = data.digits(known["genome"])
    if genomes.shape[1] != len(space.decisions) or (genomes >= [len(decision) for decision in space.decisions]).any():
        raise PmqError(f"the genomes of the run in {quoted(data.path)} are not of its search space; search anew")
    return posterior_update(tables, space, genomes, known[error].to_numpy())


def _find(errors: dict[tuple[str, int, str, int], float], name: str, choice: Choice) -> float:
    key = (name, int(choice.bits), choice.quantizer, choice.group_size or 0)
    if key not in errors:
        raise PmqError(f"the run's sensitivity.csv has no {name!r} at {choice.label} bits; search anew")
    return float(errors[key])
