"""Run directories: everything a run found, and what a killed run resumes from.

``manifest.json``   what was asked, with everything needed to run it again
``journal.jsonl``   append-only, one measurement a line; this alone is what a killed run resumes from
``sensitivity.csv`` ``costs.csv`` ``front.csv`` ``allocations/`` ``plots/``
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pmq.core.errors import PmqError
from pmq.core.files import write_text

#: the chosen allocation of a run, below its directory
CHOSEN = Path("allocations") / "chosen.json"


class RunDir:
    """A run directory.

    Args:
        path: the directory.
        settings: what determines the result; written to the manifest of a new run.
        resume: go on with a run whose settings are the same.

    Raises:
        PmqError: the directory holds a run and ``resume`` is off, or the run there was made with other settings, or
            the directory cannot be written.
    """

    def __init__(self, path: Path | str, settings: dict[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self._entries: dict[str, dict[str, Any]] = {}
        settings = json.loads(json.dumps(settings))
        manifest = self.path / "manifest.json"
        if manifest.exists():
            if not resume:
                raise PmqError(f"{str(self.path)!r} holds a run already; pass --resume to go on with it or another --out")
            self._check_same(json.loads(manifest.read_text())["settings"], settings)
        else:
            write_text(manifest, json.dumps({"settings": settings}, indent=1) + "\n")
        self._journal = self.path / "journal.jsonl"
        self._load_journal()

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise PmqError(
                    f"cannot resume {str(self.path)!r}: its {key} was {before.get(key)!r}, now it is {now.get(key)!r}; "
                    "use the same settings or another --out"
                )

    def _load_journal(self) -> None:
        if not self._journal.exists():
            return
        raw = self._journal.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]  # a kill can leave half a line at the end
        if len(whole) < len(raw):
            os.truncate(self._journal, len(whole))
        for line in whole.decode().splitlines():
            entry = json.loads(line)
            self._entries[entry["key"]] = entry["value"]

    def recall(self, key: str) -> dict[str, Any] | None:
        """Give what was journaled under ``key``, or nothing."""
        return self._entries.get(key)

    def record(self, key: str, value: dict[str, Any]) -> None:
        """Append a measurement to the journal; it survives a kill from here on."""
        self._entries[key] = value
        with self._journal.open("a") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")

    def finish(self, **facts: Any) -> None:
        """Add the outcome to the manifest."""
        manifest = self.path / "manifest.json"
        data = json.loads(manifest.read_text()) | facts
        write_text(manifest, json.dumps(data, indent=1) + "\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a finished run's manifest.

    Raises:
        PmqError: ``path`` is no run directory, or the run did not finish.
    """
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise PmqError(f"{str(path)!r} is no run directory: it has no manifest.json; `pmq search` makes one")
    data: dict[str, Any] = json.loads(manifest.read_text())
    if "chosen" not in data:
        raise PmqError(f"the run in {str(path)!r} did not finish; go on with `pmq search --resume --out {path}`")
    return data


def latest_run(results: Path) -> Path:
    """Find the run below ``results`` that finished last.

    Raises:
        PmqError: there is none.
    """
    runs = [p.parent.parent for p in results.glob(f"*/*/{CHOSEN}")]
    if not runs:
        raise PmqError(f"no finished run below {str(results)!r}; make one with `pmq search`")
    return max(runs, key=lambda run: (run / CHOSEN).stat().st_mtime)
