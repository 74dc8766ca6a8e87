"""Run directories: the results of a run, and the journal that a killed run resumes from.

``manifest.json``   settings, with everything needed to run it again, and the outcome
``journal.jsonl``   append-only, one measurement per line; a killed run resumes from this file alone
``sensitivity.csv`` ``costs.csv`` ``front.csv`` ``allocations/`` ``plots/``
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pmq.core.errors import PmqError
from pmq.core.files import is_file, quoted, write_text
from pmq.core.journal import Journal
from pmq.core.lock import hold
from pmq.core.manifest import (
    CHOOSES,
    FINETUNED,
    PRUNED,
    add_to_manifest,
    is_finished,
    is_pruned,
    known_manifest,
    latest_run,
    read_facts,
    read_manifest,
)
from pmq.core.paths import named_path
from pmq.core.run_files import CHOSEN, DECISIONS, DEPLOYMENT, JOURNAL, LATENCY, LAYERS, MANIFEST, SPENT
from pmq.core.validation import shown


class RunDir:
    """A run directory.

    Args:
        path: the directory.
        settings: settings that determine the result; written to the manifest of a new run.
        resume: resume a run with the same settings.

    Raises:
        PmqError: the directory holds a run and ``resume`` is off, or the run there was made with other settings, or
            another process works there, or the directory cannot be written.
    """

    def __init__(self, path: Path | str, settings: dict[str, Any], resume: bool = False) -> None:
        self.path = named_path(path, "run directory")
        settings = json.loads(json.dumps(settings))  # as they will be read back
        self._lock = hold(self.path)
        manifest = self.path / MANIFEST
        if is_file(manifest):
            if not resume:
                raise PmqError(f"{str(self.path)!r} holds a run already; pass `resume` to go on with it or another `out`")
            self._check_same(known_manifest(self.path).settings, settings)
        else:
            write_text(manifest, json.dumps({"settings": settings}, indent=1) + "\n")
        self._journal = Journal(self.path / JOURNAL)
        #: whether an earlier process has done part of the work
        self.resumed = bool(self._journal)

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                change = f"its {key} was {shown(before.get(key))}, now it is {shown(now.get(key))}"
                raise PmqError(f"cannot resume {quoted(self.path)}: {change}; use the same settings or another `out`")

    def recall(self, key: str) -> dict[str, Any] | None:
        """Return the measurement journaled under ``key``, or None."""
        return self._journal.recall(key)

    def record(self, key: str, value: dict[str, Any]) -> None:
        """Append a measurement to the journal; from then on it survives a kill."""
        self._journal.record(key, value)

    def finish(self, **facts: Any) -> None:
        """Add the outcome to the manifest, with the hashes of the result files."""
        add_to_manifest(self.path, facts)


__all__ = [
    "CHOOSES",
    "CHOSEN",
    "DECISIONS",
    "DEPLOYMENT",
    "FINETUNED",
    "LATENCY",
    "LAYERS",
    "MANIFEST",
    "PRUNED",
    "SPENT",
    "RunDir",
    "add_to_manifest",
    "is_finished",
    "is_pruned",
    "latest_run",
    "read_facts",
    "read_manifest",
]
