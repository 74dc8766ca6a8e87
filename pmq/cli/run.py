"""Runs on the command line: the latest one, and what it remembers of its model and images."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmq.cli.output import say

if TYPE_CHECKING:
    from pmq.cli.source import Source
    from pmq.core import Allocation
    from pmq.cost import LatencyTable


def command_of(source: Source) -> dict[str, Any]:
    """What a manifest remembers of how it was started: the line, and the flags that say which model and images."""
    return {"line": shlex.join(["pmq", *sys.argv[1:]])} | source.flags()


def named_again(source: Source) -> str:
    """What stands behind a run in a command that goes on with it: the model's name, where a file alone is not trusted with it."""
    name = source.base or source.model or ""
    if ":" not in name:
        return ""
    return f" --base {shlex.quote(name)}" if source.base else f" {shlex.quote(name)}"


def going_on(file: Path, source: Source) -> str:
    """A file in a command that goes on with it: by its name where it lies in a run that remembers the flags, else with them."""
    told = named_again(source) if started_with(run_of(str(file))) else source.line()
    return f"{shlex.quote(str(file))}{told}"


def latest_or(run: Path | None, results: Path) -> Path:
    """Give ``run``, or the run below ``results`` that finished last."""
    from pmq.core.rundir import latest_run

    return run if run is not None else latest_run(results)


def run_of(name: str) -> Path | None:
    """Give the run directory that ``name`` is, or that the allocation file ``name`` lies in; nothing where it lies elsewhere."""
    from pmq.core.files import is_dir

    path = Path(name)
    return path if is_dir(path) else path.parents[1] if path.parent.name == "allocations" else None


def latency_of(run: Path | None) -> LatencyTable | None:
    """Give the latency table that ``run`` searched with; nothing where it had none."""
    from pmq.core.manifest import known_manifest
    from pmq.core.run_files import LATENCY, unchanged
    from pmq.cost import LatencyTable

    measured = None if run is None else unchanged(run, known_manifest(run).files, LATENCY)
    return None if measured is None else LatencyTable.load(measured)


def show_report(run: Path | None, json: bool) -> None:
    """Write the page of a finished run anew, with what was added to it, and say where it is; the last thing a command does."""
    from pmq.core.rundir import is_finished
    from pmq.reporting import write_page

    if run is not None and is_finished(run):
        page = write_page([run])
        if not json:
            say(f"report: {page}")


def base_of(source: Source, run: Path | None) -> str | None:
    """What the pruned model in a folder was made of, where that is typed, or told and a name of timm's; else nothing.

    Raises:
        PmqError: the folder tells of a place that nobody has typed.
    """
    from pmq.models.create import check_named

    made = started_with(run)
    told = made.get("base") or made.get("model")
    if source.base is None and told is not None and ":" in told:
        check_named(told)
    return source.base


def of_pruned(source: Source) -> Source:
    """Fill flags the user did not give from the folder of the pruned model that the source's model is, if it is."""
    from pmq.data.open import check_at_hand

    command = started_with(run_of(source.model) if source.model else None)
    own = {"model", "num_classes", "pretrained"}
    found = source.with_flags({name: value for name, value in command.items() if name not in own})
    if source.images is None:
        check_at_hand(found.images)
    return found


def started_with(run: Path | None) -> dict[str, Any]:
    """How a run was started, by flags; nothing of what is no run, or does not tell."""
    from pmq.core.manifest import known_manifest

    command = None if run is None else known_manifest(run).command
    return {} if command is None else command.model_dump()


def remembered(names: list[str], allocations: list[Allocation], source: Source) -> Source:
    """Fill flags the user did not give from the manifest of the first run among ``names``, or an allocation's model.

    Raises:
        PmqError: they are of a model or of images that would be fetched from a network, which nobody has typed.
    """
    from pmq.data.open import check_at_hand
    from pmq.models.create import check_made, check_named

    found = source = of_pruned(source)
    for name in names:
        command = started_with(run_of(name))
        if command and source.model in (None, command["model"]):
            found = source.with_flags(command)
            break
    if allocations:
        model = allocations[0].model
        as_calibrated = {key: model.data_config.get(key) for key in ("crop_pct", "mean", "std", "interpolation")}
        found = found.with_flags(as_calibrated | {"model": model.name})
    if source.model is None and found.model is not None:
        check_named(found.model)
        if not any(started_with(run_of(name)) for name in names):
            check_made(found.model, names[0] if names else "the allocation")
    if source.images is None:
        check_at_hand(found.images)
    return found
