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
#: the same before its patches had bits of their own
LAYERS = Path("allocations") / "without-patches.json"
#: what each digit of a genome stands for
DECISIONS = Path("decisions.json")
#: where the chosen allocation's bytes, bit operations and milliseconds go
SPENT = Path("spent.csv")
#: what is written beside a deployed file
DEPLOYMENT = "deployment.json"
MANIFEST = "manifest.json"
#: in the manifest of a search that finished
CHOOSES = "chosen"
#: in the manifest of a pruned model, whose chosen allocation is in FP32
PRUNED = "pruned"
#: measured milliseconds, in the run of a search that knew them
LATENCY = Path("latency.json")


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
        manifest = self.path / MANIFEST
        if manifest.exists():
            if not resume:
                raise PmqError(f"{str(self.path)!r} holds a run already; pass --resume to go on with it or another --out")
            self._check_same(_read_json(manifest).get("settings", {}), settings)
        else:
            write_text(manifest, json.dumps({"settings": settings}, indent=1) + "\n")
        self._journal = self.path / "journal.jsonl"
        self._load_journal()
        #: whether an earlier process has done part of the work
        self.resumed = bool(self._entries)

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
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                self._entries[entry["key"]] = entry["value"]
            except (ValueError, TypeError, KeyError):
                raise PmqError(f"{str(self._journal)!r} is damaged at line {len(self._entries) + 1}; remove that line") from None

    def recall(self, key: str) -> dict[str, Any] | None:
        """Give what was journaled under ``key``, or nothing."""
        return self._entries.get(key)

    def record(self, key: str, value: dict[str, Any]) -> None:
        """Append a measurement to the journal; it survives a kill from here on."""
        self._entries[key] = value
        try:
            with self._journal.open("a") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")
        except OSError as error:
            raise PmqError(f"cannot write {str(self._journal)!r}: {error.strerror}; go on later with --resume") from None

    def finish(self, **facts: Any) -> None:
        """Add the outcome to the manifest."""
        add_to_manifest(self.path, facts)


def add_to_manifest(path: Path, facts: dict[str, Any]) -> None:
    """Add facts to the manifest of a folder, which has one from here on."""
    write_text(path / MANIFEST, json.dumps(_known(path) | facts, indent=1) + "\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a finished run's manifest.

    Raises:
        PmqError: ``path`` is no run directory, or the run did not finish.
    """
    if not (path / MANIFEST).is_file():
        raise PmqError(f"{str(path)!r} is no run directory: it has no manifest.json; `pmq search` makes one")
    data = _known(path)
    if not _finished(data):
        raise PmqError(f"the run in {str(path)!r} did not finish; go on with `pmq search --resume --out {path}`")
    return data


def _known(path: Path) -> dict[str, Any]:
    """The manifest of a folder as far as it goes; nothing of one that has none."""
    manifest = path / MANIFEST
    return _read_json(manifest) if manifest.is_file() else {}


def _finished(manifest: dict[str, Any]) -> bool:
    return CHOOSES in manifest or PRUNED in manifest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PmqError(f"{str(path)!r} cannot be read: {error}; use another run directory") from None
    if not isinstance(data, dict):
        raise PmqError(f"{str(path)!r} is no manifest of a run; use another run directory")
    return data


def is_finished(path: Path) -> bool:
    """Whether a folder holds a run that finished, or a pruned model."""
    return _finished(_known(path))


def is_pruned(path: Path) -> bool:
    """Whether a folder holds a pruned model, and no search."""
    return PRUNED in _known(path)


def latest_run(results: Path) -> Path:
    """Find the run below ``results`` that finished last.

    Raises:
        PmqError: there is none.
    """
    runs = [p.parent for p in results.glob(f"*/*/{MANIFEST}") if CHOOSES in _known(p.parent)]
    if not runs:
        raise PmqError(f"no finished run below {str(results)!r}; make one with `pmq search`")
    return max(runs, key=lambda run: (run / MANIFEST).stat().st_mtime)
