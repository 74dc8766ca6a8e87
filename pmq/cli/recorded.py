"""Runs on the command line: the latest run, and the flags of its model and images that its manifest records."""

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

#: argument that stands for the run that finished last
LATEST = "latest"


def command_of(source: Source) -> dict[str, Any]:
    """Return what a manifest records of a command: its line, and the flags of the model and the images."""
    return {"line": shlex.join(["pmq", *sys.argv[1:]])} | source.flags()


def next_model(source: Source) -> str:
    """Return the model arguments that follow a run in a next command.

    They are empty unless the model is a location or a function, which is never loaded because a file names it.
    """
    name = source.base or source.model or ""
    if ":" not in name:
        return ""
    return f" --base {shlex.quote(name)}" if source.base else f" {shlex.quote(name)}"


def next_file(file: Path, source: Source) -> str:
    """Return the arguments with which a next command reads a file.

    The flags of the source are included unless the file lies in a run that records them.
    """
    arguments = next_model(source) if recorded_flags(run_of(str(file))) else source.line()
    return f"{shlex.quote(str(file))}{arguments}"


def latest_or(name: str, results: Path) -> str:
    """Return the name of an allocation or a run; instead of ``latest``, the run below ``results`` that finished last."""
    from pmq.core.rundir import latest_run

    return str(latest_run(results)) if name == LATEST else name


def run_of(name: str) -> Path | None:
    """Return the run directory ``name``, or the one that contains the allocation file ``name``, or None."""
    from pmq.core.files import is_dir

    path = Path(name)
    return path if is_dir(path) else path.parents[1] if path.parent.name == "allocations" else None


def latency_of(run: Path | None) -> LatencyTable | None:
    """Return the latency table with which ``run`` searched, or None."""
    from pmq.core.manifest import known_manifest
    from pmq.core.run_files import LATENCY, unchanged
    from pmq.cost import LatencyTable

    file = None if run is None else unchanged(run, known_manifest(run).files, LATENCY)
    return None if file is None else LatencyTable.load(file)


def show_report(run: Path | None, json: bool) -> None:
    """Rewrite the report of a finished run and print its path; commands call this last, after adding their results."""
    from pmq.core.rundir import is_finished
    from pmq.reporting import write_page

    if run is not None and is_finished(run):
        page = write_page([run])
        if not json:
            say(f"report: {page}")


def base_of(source: Source, run: Path | None) -> str | None:
    """Return the unpruned model that the user named for the pruned model in a folder, or None if it is a timm model.

    Raises:
        PmqError: the folder records a location or a function that the user has not typed.
    """
    from pmq.models.create import check_named

    flags = recorded_flags(run)
    recorded = flags.get("base") or flags.get("model")
    if source.base is None and recorded is not None and ":" in recorded:
        check_named(recorded)
    return source.base


def fill_from_pruned(source: Source) -> Source:
    """Fill missing flags from the folder of the pruned model if the source's model is one.

    Raises:
        PmqError: the recorded images would be fetched from a network, but the user has not typed their name.
    """
    from pmq.data.open import check_local

    flags = recorded_flags(run_of(source.model) if source.model else None)
    of_unpruned = {"model", "num_classes", "pretrained"}
    completed = source.with_flags({name: value for name, value in flags.items() if name not in of_unpruned})
    if source.images is None:
        check_local(completed.images)
    return completed


def recorded_flags(run: Path | None) -> dict[str, Any]:
    """Return the flags with which a run was started, or an empty dictionary if there is no run or no record of them."""
    from pmq.core.manifest import known_manifest

    command = None if run is None else known_manifest(run).command
    return {} if command is None else command.model_dump()


def fill_from_runs(names: list[str], allocations: list[Allocation], source: Source) -> Source:
    """Fill missing flags from the manifest of the first run among ``names``, then from the first allocation's model.

    Raises:
        PmqError: the recorded model or images would be fetched from a network, but the user has not typed their name.
    """
    from pmq.data.open import check_local
    from pmq.models.create import check_made, check_named

    completed = source = fill_from_pruned(source)
    for name in names:
        flags = recorded_flags(run_of(name))
        if flags and source.model in (None, flags["model"]):
            completed = source.with_flags(flags)
            break
    if allocations:
        model = allocations[0].model
        as_calibrated = {key: model.data_config.get(key) for key in ("crop_pct", "mean", "std", "interpolation")}
        completed = completed.with_flags(as_calibrated | {"model": model.name})
    if source.model is None and completed.model is not None:
        check_named(completed.model)
        if not any(recorded_flags(run_of(name)) for name in names):
            check_made(completed.model, names[0] if names else "the allocation")
    if source.images is None:
        check_local(completed.images)
    return completed
