"""Runs on the command line: the latest one, and what it remembers of its model and images."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pmq.core import Allocation
    from pmq.cost import LatencyTable


def command_of(given: dict[str, Any]) -> dict[str, Any]:
    """What a manifest remembers of how it was started: the line, and the flags that say which model and images."""
    flags = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    return {"line": shlex.join(["pmq", *sys.argv[1:]])} | flags


def latest_or(run: Path | None, results: Path) -> Path:
    """Give ``run``, or the run below ``results`` that finished last."""
    from pmq.core.rundir import latest_run

    return run if run is not None else latest_run(results)


def run_of(name: str) -> Path | None:
    """Give the run directory that ``name`` is, or that the allocation file ``name`` lies in; nothing where it lies elsewhere."""
    path = Path(name)
    return path if path.is_dir() else path.parents[1] if path.parent.name == "allocations" else None


def latency_of(run: Path | None) -> LatencyTable | None:
    """Give the latency table that ``run`` searched with; nothing where it had none."""
    from pmq.core.rundir import LATENCY
    from pmq.cost import LatencyTable

    return LatencyTable.load(run / LATENCY) if run is not None and (run / LATENCY).is_file() else None


def show_report(run: Path | None, json: bool) -> None:
    """Write the page of a finished run anew, with what was added to it, and say where it is; the last thing a command does."""
    from pmq.core.rundir import is_finished
    from pmq.report import write_page

    if run is not None and is_finished(run):
        page = write_page([run])
        if not json:
            print(f"report: {page}")


def of_pruned(given: dict[str, Any]) -> dict[str, Any]:
    """Fill flags the user did not give from the folder of the pruned model that ``given["model"]`` is, if it is."""
    run = run_of(given["model"]) if given["model"] else None
    if run is None or not (run / "manifest.json").is_file():
        return given
    command = json.loads((run / "manifest.json").read_text()).get("command", {})
    return given | {k: command.get(k) for k in ("checkpoint", "data", "split", "crop_pct") if given.get(k) is None}


def remembered(names: list[str], allocations: list[Allocation], **given: Any) -> dict[str, Any]:
    """Fill flags the user did not give from the manifest of the first run among ``names``, or an allocation's model."""
    for name in names:
        manifest = Path(name) / "manifest.json"
        if manifest.is_file():
            command = json.loads(manifest.read_text()).get("command", {})
            if given["model"] in (None, command.get("model")):
                given = {k: v if v is not None else command.get(k) for k, v in given.items()}
                break
    if allocations:
        model = allocations[0].model
        given["model"] = given["model"] or model.name
        given["crop_pct"] = given["crop_pct"] or model.data_config.get("crop_pct")  # as it was calibrated
    return given | {"pretrained": given["pretrained"] is not False}
