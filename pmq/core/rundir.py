"""Run directories: the results of a run, and the journal that a killed run resumes from.

``manifest.json``   settings, with everything needed to run it again, and the outcome
``journal.jsonl``   append-only, one measurement per line; a killed run resumes from this file alone
``sensitivity.csv`` ``costs.csv`` ``front.csv`` ``allocations/`` ``plots/``
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from pmq.core.checkpoints import keep
from pmq.core.errors import PmqError
from pmq.core.files import is_file, is_there, quoted, read_bytes, write_text
from pmq.core.lock import hold
from pmq.core.manifest import (
    CHOOSES,
    PRUNED,
    add_to_manifest,
    is_finished,
    is_pruned,
    known_manifest,
    latest_run,
    read_facts,
    read_manifest,
)
from pmq.core.parsing import parse_json
from pmq.core.paths import named_path
from pmq.core.run_files import CHOSEN, DECISIONS, DEPLOYMENT, JOURNAL, LATENCY, LAYERS, MANIFEST, SPENT
from pmq.core.validation import shown

#: beginning of every line of a journal
_BEGINNING = b'{"key": "'


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
        self._entries: dict[str, dict[str, Any]] = {}
        settings = json.loads(json.dumps(settings))  # as they will be read back
        self._lock = hold(self.path)
        manifest = self.path / MANIFEST
        if is_file(manifest):
            if not resume:
                raise PmqError(f"{str(self.path)!r} holds a run already; pass `resume` to go on with it or another `out`")
            self._check_same(known_manifest(self.path).settings, settings)
        else:
            write_text(manifest, json.dumps({"settings": settings}, indent=1) + "\n")
        self._journal = self.path / JOURNAL
        self._load_journal()
        #: whether an earlier process has done part of the work
        self.resumed = bool(self._entries)
        if self.resumed:
            self._keep()

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                change = f"its {key} was {shown(before.get(key))}, now it is {shown(now.get(key))}"
                raise PmqError(f"cannot resume {quoted(self.path)}: {change}; use the same settings or another `out`")

    def _load_journal(self) -> None:
        if not is_there(self._journal, "journal"):
            return
        raw = read_bytes(self._journal, "journal")
        *lines, half = raw.split(b"\n")
        summed = any(b'"crc32"' in line for line in lines)
        for number, line in enumerate(lines, 1):
            entry = _entry(line, summed)
            if entry is None:
                raise PmqError(f"{quoted(self._journal)} is damaged at line {number}; remove that line")
            self._entries[entry[0]] = entry[1]
        if not half.startswith(_BEGINNING[: len(half)]):  # a kill can only leave the beginning of a line at the end
            raise PmqError(f"{quoted(self._journal)} is damaged at line {len(lines) + 1}; remove that line")
        if half:
            try:
                os.truncate(self._journal, len(raw) - len(half))
            except OSError as error:
                raise PmqError(f"cannot write {quoted(self._journal)}: {error.strerror}; make it writable") from None

    def recall(self, key: str) -> dict[str, Any] | None:
        """Return the measurement journaled under ``key``, or None."""
        return self._entries.get(key)

    def record(self, key: str, value: dict[str, Any]) -> None:
        """Append a measurement to the journal; from then on it survives a kill."""
        self._entries[key] = value
        try:
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "value": value, "crc32": _crc32(key, value)}) + "\n")
        except OSError as error:
            raise PmqError(f"cannot write {str(self._journal)!r}: {error.strerror}; go on later with `resume`") from None
        self._keep()

    def _keep(self) -> None:
        keep(self.path, "measured", "go on with the same command and `resume`")

    def finish(self, **facts: Any) -> None:
        """Add the outcome to the manifest, with the hashes of the result files."""
        add_to_manifest(self.path, facts)


def _entry(line: bytes, summed: bool) -> tuple[str, dict[str, Any]] | None:
    """Return key and value of a journal's line, or None if it is damaged; lines of older versions have no checksum."""
    try:
        entry = parse_json(line.decode("utf-8"), "journal", lenient=True)
    except (PmqError, UnicodeDecodeError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or not isinstance(entry.get("value"), dict):
        return None
    key, value = entry["key"], entry["value"]
    written = entry.get("crc32", None if summed else _crc32(key, value))
    return (key, value) if written == _crc32(key, value) else None


def _crc32(key: str, value: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps([key, value]).encode())


__all__ = [
    "CHOOSES",
    "CHOSEN",
    "DECISIONS",
    "DEPLOYMENT",
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
