"""A row of a table for each of many models, each made in a process of its own: one may end it, or take all its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pmq.core.files import write_csv
from pmq.core.progress import message, track

#: seconds after which a model is given up
LIMIT = 1200


def row_of(module: str, name: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """What ``python -m module --one name`` prints as JSON in its last line; where it fails, why (``failed``)."""
    line = [sys.executable, "-m", module, "--one", name, *flags]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=LIMIT)
        said = (done.stderr.strip().splitlines() or ["killed"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        said = f"not done after {LIMIT} s"
    if said:
        message(f"{name}: {said}")
        return {"model": name, "failed": said[:200]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def tables(
    module: str,
    names: Sequence[str],
    label: str,
    out: Path | None,
    known: Iterable[dict[str, Any]] = (),
    flags: Sequence[str] = (),
) -> Iterator[pd.DataFrame]:
    """Give the table after each model, written to ``out``: a run of many may be stopped. ``known`` rows are not made again."""
    found = {row["model"]: row for row in known}
    for name in track(names, label):
        if name not in found:
            found[name] = row_of(module, name, flags)
        table = pd.DataFrame([found[n] for n in names if n in found])
        if out is not None:
            write_csv(out, table)
        yield table


def named(models: Sequence[str], listed: Path | None) -> list[str]:
    """Names given one by one, and those of a file with a name a line."""
    return [*models, *(listed.read_text(encoding="utf-8").split() if listed else [])]
