"""Journals: append-only files of measurements, one per line, from which a killed process resumes."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from pmq.core.checkpoints import keep
from pmq.core.errors import PmqError
from pmq.core.files import is_there, quoted, read_bytes
from pmq.core.parsing import parse_json

#: beginning of every line of a journal
_BEGINNING = b'{"key": "'


class Journal:
    """A journal, which only one process may write.

    Args:
        path: the file, which need not exist.
        hint: how to go on after a stop, for messages.

    Raises:
        PmqError: the file is damaged or cannot be read.
    """

    def __init__(self, path: Path, hint: str = "go on with the same command and `resume`") -> None:
        self._path, self._hint = path, hint
        self._entries: dict[str, dict[str, Any]] = {}
        self._load()
        keep(path, "measured", hint)

    def __len__(self) -> int:
        return len(self._entries)

    def _load(self) -> None:
        if not is_there(self._path, "journal"):
            return
        raw = read_bytes(self._path, "journal")
        *lines, half = raw.split(b"\n")
        summed = any(b'"crc32"' in line for line in lines)
        for number, line in enumerate(lines, 1):
            entry = _entry(line, summed)
            if entry is None:
                raise PmqError(f"{quoted(self._path)} is damaged at line {number}; remove that line")
            self._entries[entry[0]] = entry[1]
        if not half.startswith(_BEGINNING[: len(half)]):  # a kill can only leave the beginning of a line at the end
            raise PmqError(f"{quoted(self._path)} is damaged at line {len(lines) + 1}; remove that line")
        if half:
            try:
                os.truncate(self._path, len(raw) - len(half))
            except OSError as error:
                raise PmqError(f"cannot write {quoted(self._path)}: {error.strerror}; make it writable") from None

    def recall(self, key: str) -> dict[str, Any] | None:
        """Return the measurement journaled under ``key``, or None."""
        return self._entries.get(key)

    def record(self, key: str, value: dict[str, Any]) -> None:
        """Append a measurement; from then on it survives a kill."""
        self._entries[key] = value
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "value": value, "crc32": _crc32(key, value)}) + "\n")
        except OSError as error:
            raise PmqError(f"cannot write {str(self._path)!r}: {error.strerror}; once it can be written, {self._hint}") from None


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
