"""The space and the tables of a finished run, rebuilt from its files."""

from __future__ import annotations

from pmq.core import Choice, PmqError
from pmq.core.files import quoted
from pmq.core.run_files import LATENCY, unchanged
from pmq.core.validation import validated
from pmq.cost import LatencyTable
from pmq.metrics import SensitivityTable
from pmq.optimize import Space, SpaceFile, Tables
from pmq.optimize.refit import posterior_update
from pmq.reporting import RunData


def check_resolvable(data: RunData) -> None:
    """Raise unless the tables of a run can be solved for another budget.

    Raises:
        PmqError: the run is no search, searched widths, or its settings contradict its chosen allocation.
    """
    path = quoted(data.path)
    if not data.searched:
        raise PmqError(
            f"run {path} is a pruned or fine-tuned model, which has no tables to solve for another budget; search the model"
        )
    if data.settings.widths:
        raise PmqError(f"run {path} searched widths as well, which cannot be solved again; search again")
    if (data.settings.model, data.settings.recipe.name) != (data.allocation.model, data.allocation.recipe.name):
        raise PmqError(f"the settings of the run in {path} are not those of its chosen allocation; search again")


def rebuild_space(data: RunData) -> Space:
    """Return the search space of a run, laid over its components, with its latency table.

    Raises:
        PmqError: the settings contradict ``decisions.json``.
    """
    measured = unchanged(data.path, data.manifest.files, LATENCY)
    latency = None if measured is None else LatencyTable.load(measured)
    file = validated(SpaceFile, data.settings.space, f"search space of the run in {quoted(data.path)}")
    space = Space(file, data.inventory, data.settings.recipe.estimator, latency)
    if data.decisions is not None:
        recorded = [(decision.components, decision.choices) for decision in data.decisions]
        if recorded != [(decision.components, decision.choices) for decision in space.decisions]:
            raise PmqError(f"the settings of the run in {quoted(data.path)} do not match its decisions.json; search again")
    return space


def rebuild_tables(data: RunData, space: Space) -> Tables:
    """Return the tables of a run, with the posterior update by the allocations that it simulated.

    Raises:
        PmqError: ``sensitivity.csv`` or ``points.csv`` are not of this space.
    """
    table = SensitivityTable(data.settings.metric)
    errors = {
        (str(row.component), int(row.bits), str(row.quantizer), _group_size(row.group_size)): float(row.error)
        for row in data.sensitivity.itertuples()
    }
    for name, choices in space.choices.items():
        for choice in choices:
            if not choice.is_fp32:
                table.put(name, choice, _find(errors, name, choice))
    tables = Tables.build(space, table)
    points = data.points
    error = "kl" if points["kl"].notna().any() else "feature_error"
    simulated = points[points[error].notna() & points["predicted_error"].notna()]
    genomes = data.digits(simulated["genome"])
    if genomes.shape[1] != len(space.decisions) or (genomes >= [len(decision) for decision in space.decisions]).any():
        raise PmqError(f"the genomes of the run in {quoted(data.path)} are not of its search space; search again")
    return posterior_update(tables, space, genomes, simulated[error].to_numpy())


def _group_size(cell: float) -> int:
    return 0 if cell != cell else int(cell)  # an empty cell is NaN


def _find(errors: dict[tuple[str, int, str, int], float], name: str, choice: Choice) -> float:
    key = (name, int(choice.bits), choice.quantizer, choice.group_size or 0)
    if key not in errors:
        raise PmqError(f"the run's sensitivity.csv has no {name!r} at {choice.label} bits; search again")
    return errors[key]
