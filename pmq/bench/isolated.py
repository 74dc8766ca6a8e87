"""Tables with one row per model, each computed in a process of its own, which may crash or run out of memory."""

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

#: seconds after which a model is abandoned
LIMIT = 5400


def row_of(module: str, name: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Return the JSON that ``python -m module --one name`` prints in its last line, or why it ``failed``."""
    line = [sys.executable, "-m", module, "--one", name, *flags]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=LIMIT)
        failure = (done.stderr.strip().splitlines() or ["killed"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        failure = f"not finished after {LIMIT} s"
    if failure:
        message(f"{name}: {failure}")
        return {"model": name, "failed": failure[:200]}
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
    """Yield the table after each model and write it to ``out``, so that a run can be stopped; ``known`` rows are reused."""
    rows = {row["model"]: row for row in known}
    for name in track(names, label):
        if name not in rows:
            rows[name] = row_of(module, name, flags)
        table = pd.DataFrame([rows[n] for n in names if n in rows])
        if out is not None:
            write_csv(out, table)
        yield table


def model_names(models: Sequence[str], listed: Path | None) -> list[str]:
    """Return the names in ``models`` followed by those in the file ``listed``, which contains one name per line."""
    return [*models, *(listed.read_text(encoding="utf-8").split() if listed else [])]
