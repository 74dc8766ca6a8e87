"""The verb ``resolve``."""

from __future__ import annotations

from pathlib import Path

from pmq.core import Allocation, Budget, PmqError
from pmq.core.files import check_target
from pmq.cost import CostModel
from pmq.optimize import ExactSolver
from pmq.pipeline.allocation import plan_allocation
from pmq.pipeline.search.budget import resolve_budget
from pmq.pipeline.search.rebuilt_tables import check_resolvable, rebuild_space, rebuild_tables
from pmq.reporting import RunData


def resolve(run: Path | str, budget: str | Budget) -> tuple[Path, Allocation]:
    """Solve the tables of a finished run for another budget, in seconds and without a forward pass.

    The allocation has bit-widths but no tensors: nothing is simulated or quantized. ``pmq evaluate FILE --recalibrate`` and
    ``pmq deploy FILE --recalibrate`` quantize it.

    Args:
        run: directory of a finished run.
        budget: see :mod:`pmq.core.budget`.

    Returns:
        The file, which is written beside the run's own allocation, and the allocation.

    Raises:
        PmqError: ``run`` is no finished search, or its space cannot meet the budget.

    Example:
        >>> import tempfile, torch, pmq
        >>> images, out = torch.randn(12, 1, 28, 28), tempfile.mkdtemp() + "/run"
        >>> quick = pmq.SearchOptions(recipe="fast", n_rounds=1)
        >>> run = pmq.search(None, images, "w4a8", space="w4a8", out=out, options=quick).run
        >>> _, allocation = pmq.resolve(run, "w8a8")
        >>> allocation.components["blocks.0.mlp.fc1.weight"].bits
        8
    """
    data, budget = RunData(Path(run)), budget if isinstance(budget, Budget) else Budget.parse(budget)
    check_resolvable(data)
    file = check_target(data.path / "allocations" / f"{budget.text.replace(',', '_')}.json")
    space = rebuild_space(data)
    tables = rebuild_tables(data, space)
    limits = resolve_budget(budget, space)
    genome = ExactSolver(tables).solve(limits)
    if genome is None:
        raise PmqError(
            f"no allocation of search space {space.name!r} was found within {budget.text!r}; raise the budget a little"
        )
    settings, metrics = data.settings, {"predicted_error": tables.evaluate(genome[None])[0, 0]}
    costs, assignment = CostModel(data.inventory, space.latency), space.assignment(genome)
    allocation = plan_allocation(settings.model, costs, assignment, settings.recipe, space.name, budget.text, limits, metrics)
    allocation = allocation.model_copy(update={"merging": data.allocation.merging})
    return allocation.save(file), allocation
